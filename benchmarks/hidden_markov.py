"""How long does one Baum-Welch iteration take, beside hmmlearn's? Same sequences, start and number of steps."""

import warnings
from functools import partial

import jax
import numpy as np

from benchmarks.measure import per_step
from benchmarks.suite import Case, Record, Target

#: sequences, length, states, columns, how many times hmmlearn is to be reached.
PROBLEMS = {
    "tiny": [(4, 30, 2, 2, None)],
    "quick": [(64, 1_000, 8, 4, 5)],
    "full": [(64, 1_000, 8, 4, 5)],
    "gpu": [(64, 1_000, 8, 4, None), (1_024, 1_000, 8, 4, None)],
}


def cases(size):
    return [
        Case("HMM iteration", f"{n} sequences x {t:,}, k {k}, d {d}", "float32", partial(run, n, t, k, d, times, size))
        for n, t, k, d, times in PROBLEMS[size]
    ]


def run(n, t, k, d, times_hmmlearn, size, repeats):
    import jaxem

    rng = np.random.default_rng(0)
    states = rng.integers(k, size=(n, t // 10 + 1)).repeat(10, 1)[:, :t]
    x = (rng.normal(size=(k, d))[states] * 2 + rng.normal(size=(n, t, d))).astype(np.float32)
    model = jaxem.gaussian_hmm(k, covariance="diag")
    start = jax.tree.map(np.asarray, model.init(jax.random.key(0), x))
    runs = {"jaxem": lambda steps: jax.block_until_ready(jaxem.fit(model, x, start, tol=0.0, max_steps=steps))}
    if size != "gpu":
        runs["hmmlearn"] = partial(_hmmlearn, x, start)
    values = per_step(runs, 2, 12, repeats)
    targets = [Target("hmmlearn", times_hmmlearn, "at least")] if times_hmmlearn else []
    return Record(values, "s", targets, {"steps": 10})


def _hmmlearn(x, start, steps):
    from hmmlearn.hmm import GaussianHMM

    n, t, d = x.shape
    fitted = GaussianHMM(len(start.initial), "diag", n_iter=steps, tol=-np.inf, init_params="", min_covar=0.0)
    fitted.startprob_, fitted.transmat_ = start.initial.astype(float), start.transition.astype(float)
    fitted.startprob_ /= fitted.startprob_.sum()
    fitted.transmat_ /= fitted.transmat_.sum(1, keepdims=True)
    fitted.means_, fitted.covars_ = start.emissions.mean, start.emissions.cov
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it did not converge
        fitted.fit(x.reshape(-1, d), [t] * n)
