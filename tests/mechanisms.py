"""Which mechanism works for which model, found by trying: the table in docs/mechanisms.md, which this prints."""

import jax
import numpy as np
from zoo import ZOO

import jaxem
from jaxem.contract.capabilities import Conjugate, provides
from jaxem.contract.posterior import posterior_of


def _component(model):
    """The family that a mixture or a chain is of."""
    return getattr(model, "component", None) or getattr(model, "emission", None) or _absent("a component")


def _absent(what):
    raise NotImplementedError(what)


def _shapes(function, *args):
    return jax.eval_shape(function, *args)


class _Trial:
    """A model of the zoo with its data, traced and never run."""

    def __init__(self, row):
        self.model = row.model
        self.x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), row.data())
        self.rows = self.model.rows(self.x)
        self.params = _shapes(self.model.init, jax.random.key(0), self.rows)
        self.resp = _shapes(self.model.e_step, self.params, self.rows).resp
        self.stats = _shapes(self.model.sufficient_statistics, self.resp, self.rows)

    def labels(self):
        shape = _shapes(lambda resp: posterior_of(self.model, resp).marginals(), self.resp).shape[:-1]
        model, x = self.model.labelled(self.x, np.full(shape, -1))
        _shapes(model.e_step, self.params, x)

    def groups(self):
        model = jaxem.Mixture(jaxem.Repeated(_component(self.model)), self.model.n_components)
        groups = model.rows(jax.tree.map(lambda leaf: leaf[:, None], self.x))
        _shapes(model.e_step, _shapes(model.init, jax.random.key(0), groups), groups)

    def missing(self):
        jaxem.missing(_component(self.model))

    def noise(self):
        if not isinstance(_component(self.model), jaxem.Gaussian):
            _absent("normal components")

    def censoring(self):
        if not isinstance(_component(self.model), jaxem.Exponential):
            _absent("exponential components")

    def prior(self):
        if not provides(self.model, Conjugate):
            _absent("a conjugate prior")
        strength = jax.tree.map(lambda _: 1.0, self.params)
        _shapes(lambda params: self.model.pseudo_statistics(params, strength), self.params)

    def restrict(self):
        _shapes(self.model.expected_log_joint, self.params, self.stats)

    def anneal(self):
        if not self.model.normalised:
            _absent("a soft posterior")
        _shapes(lambda resp: posterior_of(self.model, resp).tempered(0.5).marginals(), self.resp)


#: Columns of the table: what is written, and how it is tried.
MECHANISMS = {
    "`labels=`": _Trial.labels,
    "`Repeated`": _Trial.groups,
    "`missing`": _Trial.missing,
    "noise": _Trial.noise,
    "censored": _Trial.censoring,
    "`WithPrior`": _Trial.prior,
    "`restrict`": _Trial.restrict,
    "`anneal`": _Trial.anneal,
}


def _works(mechanism, trial):
    try:
        mechanism(trial)
    except (NotImplementedError, ValueError, AttributeError):
        return False
    return True


def table() -> str:
    """A row for every call that the README shows; x: works for all its forms in the zoo, (x): for some of them."""
    found = {}
    for row in ZOO:
        if row.shown[0]:
            trial = _Trial(row)
            marks = [_works(mechanism, trial) for mechanism in MECHANISMS.values()]
            found.setdefault(row.shown[1], []).append(marks)
    lines = ["| model | " + " | ".join(MECHANISMS) + " |", "| --- |" + " :-: |" * len(MECHANISMS)]
    for call, every in found.items():
        columns = list(zip(*every, strict=True))
        marks = " | ".join("x" if all(column) else "(x)" if any(column) else "" for column in columns)
        lines.append(f"| `{call}` | {marks} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
