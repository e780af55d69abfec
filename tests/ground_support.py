"""Reading the data of the trusted fits, and how many of them are reached."""

import csv

import jax
import numpy as np
from conftest import GROUND

import jaxem


def rows_of(case):
    """The rows of a case's file, as dictionaries."""
    return list(csv.DictReader((GROUND / case["file"]).read_text().splitlines()))


def columns(rows, names):
    """[n, len(names)] of floats."""
    return np.array([[float(row[name]) for name in names] for row in rows]).reshape(len(rows), len(names))


def require_trace(case, model, x, start, weights=None):
    """The log-likelihood after t steps from `start`, for every t that the case states, to 1e-8."""
    steps = {int(t): value for t, value in case["log_lik"].items()}
    fit = jaxem.fit(model, x, start, weights=weights, tol=0.0, max_steps=max(steps))
    weights = np.ones(len(jax.tree.leaves(x)[0])) if weights is None else weights
    history = np.concatenate([[np.dot(weights, model.log_prob(start, x))], fit.history[: int(fit.n_steps)]])
    for t, expected in steps.items():
        # A fit may end before t where no step gains anything any more.
        value = history[min(t, len(history) - 1)]
        assert abs(value - expected) <= 1e-8 * abs(expected), (case["id"], t, value, expected)


def gap(case, model, x, n_restarts=64, **options):
    """How far above the trusted log-likelihood the best of the restarts is, in nats."""
    options = {"tol": 1e-11, "max_steps": 20_000} | options
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=n_restarts, **options)
    return float(best.log_lik) - case["log_lik"]


def require_reached(cases, model_of, share=0.9, **options):
    """All cases of confidence "exact" and this share of "high" are reached; model_of: case -> (model, x)."""
    gaps = {case["id"]: gap(case, *model_of(case), **options) for case in cases if case["confidence"] != "best-known"}
    missed = [case for case in cases if gaps.get(case["id"], 0) < -max(case["tolerance"], 1e-9 * abs(case["log_lik"]))]
    of_high = [case["id"] for case in missed if case["confidence"] == "high"]
    print(f"{len(gaps) - len(missed)} of {len(gaps)} reached; missed:", {c["id"]: gaps[c["id"]] for c in missed})
    assert [case["id"] for case in missed if case["confidence"] == "exact"] == []
    assert len(of_high) <= (1 - share) * sum(case["confidence"] == "high" for case in cases), of_high
