"""Every public way to fit, as one table: a new one is a row of `ENTRY_POINTS`.

A `Case` is a row of the zoo in one of the `SITUATIONS`: the data as a person has them, and the reference, which is
`jaxem.fit` in float64. `questions.py` is the table of what is asked after a fit, and `laws/test_entry_points.py` states
the law over both.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import small_data as data
from sklearn.exceptions import ConvergenceWarning

import jaxem
from jaxem.contract.capabilities import Discrete, Pools, provides
from jaxem.sklearn import GaussianMixture

#: M-steps of the fits that are compared; restarts where an entry point draws the starts itself.
STEPS, RESTARTS = 3, 2

#: They are stopped by the number of steps alone.
LIMITS = {"tol": 0.0, "max_steps": STEPS}

#: How far a log-likelihood in float32 may be from that in float64, relative to it and to the number of rows.
LOG_LIK = 1e-5


# --- rows far from the origin ----------------------------------------

#: Where real numbers are moved to, in standard deviations of their column, and what positive numbers are multiplied by.
SHIFT, FACTOR = 1e4, 1e6

#: Families of vectors of real numbers, and of positive numbers.
LOCATED = (jaxem.Gaussian, jaxem.StudentT, jaxem.FactorAnalyzer, jaxem.IncompleteGaussian, jaxem.StateSpace)
POSITIVE = (jaxem.Exponential, jaxem.Gamma, jaxem.LogNormal, jaxem.CensoredExponential)

#: What takes rows that come with more: gating inputs, lengths, sizes of groups.
WITH_MORE = (jaxem.GatedMixture, jaxem.HMM, jaxem.Repeated)


def moved_away(part, x):
    """Data x of a model or family as far from the origin as its kind of rows can be; counts and codes stay."""
    if isinstance(part, LOCATED):
        return (shifted(x[0]), *x[1:]) if isinstance(x, tuple) else shifted(x)
    if isinstance(part, POSITIVE):
        return jax.tree.map(lambda leaf: leaf * FACTOR, x)
    if isinstance(part, jaxem.LinearRegression):
        return x[0], x[1] * FACTOR
    if isinstance(part, jaxem.Product):
        return tuple(moved_away(each, leaf) for each, leaf in zip(_parts(part), x, strict=True))
    if not _parts(part):
        return x
    if isinstance(part, WITH_MORE) and isinstance(x, tuple):
        return (moved_away(_parts(part)[0], x[0]), *x[1:])
    return moved_away(_parts(part)[0], x)


def shifted(x):
    """Columns [..., d] of real numbers, every other one to the negative side."""
    sides = (-1.0) ** np.arange(x.shape[-1])
    return x + SHIFT * sides * np.nanstd(x.reshape(-1, x.shape[-1]), axis=0)


def _parts(part) -> list:
    """The models and families in the fields of one."""
    values = [getattr(part, field.name) for field in dataclasses.fields(part)]
    flat = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
    return [each for each in flat if hasattr(each, "e_step")]


# --- models that hold something of the data ----------------------------------------


def _boxed(x):
    return jaxem.gaussian_mixture_with_noise(2, x.min(0) - 1, x.max(0) + 1)


def _hulled(x):
    return jaxem.Mixture(jaxem.OneOf((jaxem.Gaussian("diag"), jaxem.UniformHull.around(x)), (2, 1)), 3)


def _one_centre(x):
    model = jaxem.gaussian_mixture(2, "diag")
    common = jaxem.weak_prior(model, x).params
    return jaxem.restrict(model, common, tie="components.mean", freeze={"components.cov": [[True], [False]]})


def _believed(model, strength):
    return lambda x: jaxem.WithPrior(model, jaxem.weak_prior(model, x).params, strength)


#: By the names of rows: functions that make the model of the zoo for rows that were moved.
MODELS = {
    "gaussian-with-noise": _boxed,
    "gaussian-with-hull-noise": _hulled,
    "gaussian-prior": _believed(jaxem.gaussian_mixture(2), jaxem.MixtureParams(2.0, jaxem.GaussianParams(0.5, 6.0))),
    "poisson-prior": _believed(jaxem.poisson_mixture(2), 2.0),
    "gaussian-restricted": _one_centre,
    "labelled": lambda x: jaxem.gaussian_mixture(3),
}

#: Rows of the zoo that come joined to what is known of them: (data alone, labels).
LABELLED = {"labelled": (lambda: data.groups(90, 2), data.labels(90, 3))}


# --- a row of the zoo in one situation ----------------------------------------


class Situation(NamedTuple):
    """How the data of a row are given. dtype: that of the rows on the host. asked: all questions are asked in it."""

    name: str
    dtype: str = "float64"
    far: bool = True
    weighted: bool = False
    labelled: bool = False
    believed: bool = False
    asked: bool = False

    def suits(self, row) -> bool:
        """Whether the model of a row of the zoo takes labels, and a prior, where this situation has them."""
        labels = not self.labelled or (provides(row.model, Discrete) and row.name not in LABELLED)
        prior = not self.believed or (provides(row.model, Pools) and row.name not in MODELS)
        return labels and prior


SITUATIONS = (
    Situation("float64", asked=True),
    Situation("float32-weights", "float32", weighted=True, asked=True),
    Situation("float32-labels", "float32", labelled=True),
    Situation("float32-prior-weights", "float32", weighted=True, believed=True),
)


class Fitted(NamedTuple):
    """What an entry point found. start: where from, if it chose that itself; log_lik and objective: None if unsaid."""

    params: Any
    log_lik: Any = None
    objective: Any = None
    start: Any = None

    @classmethod
    def of(cls, result, start=None) -> "Fitted":
        return cls(result.params, result.log_lik, result.objective, start)


def on_host(tree):
    """The leaves of a tree as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)


def wide(tree):
    """The leaves of a tree as NumPy arrays of float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def lane(tree, index):
    """One entry of the leading axis that the leaves of a tree share."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


class Case:
    """A row of the zoo in a situation: model, x, weights and labels as a person has them, and two starts."""

    def __init__(self, row, situation):
        self.row, self.situation, self.key = row, situation, jax.random.key(3)
        make, self.labels = LABELLED.get(row.name, (row.data, None))
        x = moved_away(row.model, make()) if situation.far else make()
        self.x = jax.tree.map(lambda leaf: np.asarray(leaf, situation.dtype), x)
        self.n = len(jax.tree.leaves(self.x)[0])
        self.weights = self._weights() if situation.weighted else None
        self.model = self._model(self.x)
        with jax.enable_x64(True):
            self.wide_x = wide(self.x)
            self.wide_model = self._model(self.wide_x)
            self.starts = [self._start(number) for number in range(2)]
            if situation.labelled:
                found = np.asarray(self.wide_model.predict(self.starts[0], self.wide_x))
                self.labels = np.where(np.arange(found.size).reshape(found.shape) % 3 == 0, found, -1)
        self._references = {}

    def _weights(self):
        """Between 0.5 and 1.5, and one row that is not there."""
        weights = np.random.default_rng(1).uniform(0.5, 1.5, self.n)
        weights[self.n // 2] = 0
        return weights

    def _model(self, x):
        model = MODELS[self.row.name](x) if self.row.name in MODELS else self.row.model
        return jaxem.weak_prior(model, x, weights=self.weights) if self.situation.believed else model

    def _start(self, number):
        key = jax.random.fold_in(self.key, number)
        return wide(self.wide_model.init(key, self.wide_x, self.weights))

    @property
    def start(self):
        return self.starts[0]

    @property
    def both_starts(self):
        """With a leading axis; the one to compare is the second."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *reversed(self.starts))

    @property
    def total_weight(self):
        return self.n if self.weights is None else float(self.weights.sum())

    def joined(self, model=None, x=None):
        """(model, x) with the labels, if there are any, joined to the rows: for what takes no `labels=`."""
        model, x = (self.model, self.x) if model is None else (model, x)
        return (model, x) if self.labels is None else model.labelled(x, self.labels)

    # --- the reference ---------------------------------------------------------------------------------------------

    def reference(self, steps=STEPS, start=None) -> Fitted:
        """The fit in float64 with so many steps, from the first start or from another."""
        if start is not None:
            return self._reference(steps, wide(start))
        if steps not in self._references:
            self._references[steps] = self._reference(steps, self.start)
        return self._references[steps]

    def _reference(self, steps, start):
        with jax.enable_x64(True):
            options = dict(weights=self.weights, labels=self.labels, tol=0.0, max_steps=steps)
            return Fitted.of(on_host(jaxem.fit(self.wide_model, self.wide_x, start, **options)), start)

    def in_standard_units(self, params):
        """Params in the model's standard units of these data, computed in float64: there they are of order 1."""
        with jax.enable_x64(True):
            return on_host(_in_standard_units(*self.joined(self.wide_model, self.wide_x), self.weights, wide(params)))

    def wide_log_prob(self, params):
        """Log densities of the rows, computed in float64."""
        with jax.enable_x64(True):
            model, x = self.joined(self.wide_model, self.wide_x)
            return np.asarray(model.log_prob(wide(params), x))

    def log_prob_in_standard_units(self, params):
        """Log densities of the rows in the model's standard units: the same wherever the rows lie."""
        with jax.enable_x64(True):
            volume = _log_volume(*self.joined(self.wide_model, self.wide_x), self.weights)
            return self.wide_log_prob(params) + np.asarray(volume)

    def total(self, log_prob) -> float:
        """The sum of weights times log densities."""
        weights = np.ones(self.n) if self.weights is None else self.weights
        return float(weights[weights > 0] @ np.asarray(log_prob, np.float64)[weights > 0])

    @functools.cached_property
    def twin(self):
        """The same row near the origin, in the same dtype and with the same key: draws there are draws here, moved."""
        return Case(self.row, self.situation._replace(far=False))

    @functools.cached_property
    def result(self):
        """The fit whose params are asked about."""
        return jaxem.fit(self.model, self.x, self.start, weights=self.weights, labels=self.labels, **LIMITS)

    @functools.cached_property
    def drawn_starts(self):
        """The starts that restarts draw with the key of the case: fits of no step return them."""
        options = dict(n_restarts=RESTARTS, weights=self.weights, labels=self.labels, tol=0.0, max_steps=0)
        return on_host(jaxem.fit_restarts(self.model, self.x, self.key, **options).all.params)


@jax.jit
def _in_standard_units(model, x, weights, params):
    return model.units(model.rows(x), weights).params(params)


@jax.jit
def _log_volume(model, x, weights):
    return model.units(model.rows(x), weights).log_volume()


# --- the ways to fit ----------------------------------------


class EntryPoint(NamedTuple):
    """A way to fit.

    run: a case -> `Fitted`. steps: M-steps of `jaxem.fit` that it equals. suits: (row, situation) -> whether it can.
    on_device: it takes and gives float32 arrays on the device, which far from the origin are rounded.
    """

    name: str
    run: Callable[[Case], Fitted]
    steps: int = STEPS
    suits: Callable[[Any, Situation], bool] = lambda row, situation: True
    on_device: bool = False


def _fit(case):
    return Fitted.of(case.result)


def _fit_in_chunks(case):
    options = dict(weights=case.weights, labels=case.labels, chunk_size=max(1, case.n // 3), **LIMITS)
    return Fitted.of(jaxem.fit(case.model, case.x, case.start, **options))


def _restarts_from_given(case):
    options = dict(start=case.both_starts, weights=case.weights, labels=case.labels, **LIMITS)
    best, fits = jaxem.fit_restarts(case.model, case.x, None, **options)
    assert float(best.objective) == np.nanmax(fits.objective)
    return Fitted.of(lane(fits, 1))


def _restarts_from_drawn(case):
    options = dict(n_restarts=RESTARTS, weights=case.weights, labels=case.labels, **LIMITS)
    return _best_of_drawn(case, jaxem.fit_restarts(case.model, case.x, case.key, **options))


def _best_of_drawn(case, restarts):
    """The best of the restarts that were drawn with the key of the case, and its start."""
    best, fits = restarts
    return Fitted.of(best, lane(case.drawn_starts, int(np.nanargmax(fits.objective))))


def _subsampled(case):
    """A subsample that holds all rows."""
    options = dict(n_restarts=1, start=lane(case.both_starts, [1]), weights=case.weights, labels=case.labels)
    starts = jaxem.subsampled_starts(case.model, case.x, case.key, case.n, **options, **LIMITS)
    return Fitted(lane(starts, 0))


def _select(case):
    model, x = case.joined()
    options = dict(n_restarts=RESTARTS, weights=case.weights, **LIMITS)
    models = {"this": model}
    if _has_sizes(case.row, case.situation):
        models["smaller"] = dataclasses.replace(model, n_components=model.n_components - 1)
    found = {each.name: each for each in jaxem.select(models, x, case.key, **options)}["this"]
    assert float(found.best.objective) == float(found.restarts.best.objective)
    return _best_of_drawn(case, found.restarts)


def _has_sizes(row, situation):
    """Whether a mixture of one component fewer fits the same data."""
    free = not (situation.labelled or situation.believed or row.name in MODELS)
    return free and type(row.model) is jaxem.Mixture and row.model.n_components > 1


def _stream(case):
    model, x = case.joined()
    pieces, weights = _pieces(x, case.n), None if case.weights is None else _pieces(case.weights, case.n)
    return Fitted.of(jaxem.fit_stream(model, pieces, case.start, weights=weights, **LIMITS))


def _pieces(rows, n):
    """Rows in three pieces of different lengths."""
    edges = [0, n // 4, n // 2, n]
    cuts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [jax.tree.map(lambda leaf, cut=cut: leaf[cut], rows) for cut in cuts]


def _online_stream(case):
    """A pass of online EM whose only batch holds all rows."""
    model, x = case.joined()
    options = dict(weights=case.weights, algorithm=jaxem.OnlineEM(averaged=False), tol=0.0, max_steps=1)
    options["weights"] = None if case.weights is None else [case.weights]
    return Fitted.of(jaxem.fit_stream(model, [x], case.start, **options))


def _partial(case):
    model, x = case.joined()
    return Fitted(jaxem.fit_partial(model, x, case.start, weights=case.weights).params)


def _partial_twice(case):
    """Without a delay the second batch replaces the first: that is a second step of EM."""
    model, x = case.joined()
    options = dict(weights=case.weights, algorithm=jaxem.OnlineEM(delay=0.0))
    state = jaxem.fit_partial(model, x, case.start, **options)
    return Fitted(jaxem.fit_partial(model, x, state, **options).params)


def _anneal(case):
    model, x = case.joined()
    options = dict(exponents=(1.0,), n_steps=STEPS, weights=case.weights)
    return Fitted(jaxem.anneal(model, x, case.start, **options))


def _compare_algorithms(case):
    model, x = case.joined()
    options = dict(weights=case.weights, repeats=1, **LIMITS)
    compared = jaxem.compare_algorithms(model, x, case.both_starts, {"EM": jaxem.EM()}, **options)
    (trace,) = compared.traces
    known = ~np.isnan(trace.objective[-1])  # a fit that collapsed has none
    np.testing.assert_array_equal(trace.objective[-1][known], np.asarray(trace.fits.objective)[known])
    return Fitted.of(lane(trace.fits, 1))


def _estimator(case):
    weights, (means, covariances) = case.start
    inverse = np.linalg.inv if case.model.component.covariance in ("full", "tied") else np.reciprocal
    given = dict(weights_init=weights, means_init=means, precisions_init=inverse(covariances))
    shape = dict(n_components=len(weights), covariance_type=case.model.component.covariance)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        mixture = GaussianMixture(**shape, **given, tol=0.0, max_iter=STEPS).fit(case.x, sample_weight=case.weights)
    params = jaxem.MixtureParams(mixture.weights_, jaxem.GaussianParams(mixture.means_, mixture.covariances_))
    log_lik = mixture.lower_bound_ * case.total_weight
    assert abs(case.total(mixture.score_samples(case.x)) - log_lik) < LOG_LIK * (abs(log_lik) + case.total_weight)
    return Fitted(params, log_lik, log_lik)


def _is_scikit_learns(row, situation):
    free = not (situation.labelled or situation.believed or row.name in MODELS)
    component = getattr(row.model, "component", None)
    known = type(row.model) is jaxem.Mixture and type(component) is jaxem.Gaussian
    return free and known and component.covariance in ("full", "tied", "diag", "spherical")


def _by_hand(case):
    """One E-step and one M-step."""
    model, x = case.joined()
    return Fitted(model.m_step(model.e_step(case.start, x).resp, x, case.weights))


@jax.jit
def _compiled_fit(model, x, start, weights, labels):
    return jaxem.fit(model, x, start, weights=weights, labels=labels, **LIMITS)


@jax.jit
def _compiled_restarts(model, x, starts, weights, labels):
    return jaxem.fit_restarts(model, x, None, start=starts, weights=weights, labels=labels, **LIMITS).all


@jax.jit
def _compiled_annealing(model, x, start, weights):
    return jaxem.anneal(model, x, start, exponents=(1.0,), n_steps=STEPS, weights=weights)


@jax.jit
def _compiled_partial(model, x, start, weights):
    return jaxem.fit_partial(model, x, start, weights=weights).params


def _fit_in_jit(case):
    return Fitted.of(_compiled_fit(case.model, case.x, case.start, case.weights, case.labels))


def _restarts_in_jit(case):
    return Fitted.of(lane(_compiled_restarts(case.model, case.x, case.both_starts, case.weights, case.labels), 1))


def _anneal_in_jit(case):
    return Fitted(_compiled_annealing(*case.joined(), case.start, case.weights))


def _partial_in_jit(case):
    return Fitted(_compiled_partial(*case.joined(), case.start, case.weights))


def _is_tempered(row, situation):
    """Whether annealing has something to raise to a power: the soft posterior of a discrete hidden value."""
    chain = isinstance(row.model, jaxem.HMM)
    return provides(row.model, Discrete) and row.model.normalised and not chain


def _keeps_rows(row, situation):
    """Whether rows lose nothing when they are put on the device, where only programs can move them."""
    return situation.dtype == "float32" or not situation.far


def _keeps_rows_and_is_tempered(row, situation):
    return _keeps_rows(row, situation) and _is_tempered(row, situation)


def _is_exact(row, situation):
    """Whether the M-step finds the maximum from anywhere; by hand it has no incumbent to start from."""
    return row.exact_m_step


def _has_no_prior(row, situation):
    """A prior speaks less the more rows were seen, and online EM counts those that come again."""
    return not (situation.believed or isinstance(row.model, jaxem.WithPrior))


ENTRY_POINTS = (
    EntryPoint("fit", _fit),
    EntryPoint("fit-in-chunks", _fit_in_chunks),
    EntryPoint("fit_restarts-given", _restarts_from_given),
    EntryPoint("fit_restarts-drawn", _restarts_from_drawn),
    EntryPoint("subsampled_starts", _subsampled),
    EntryPoint("select", _select),
    EntryPoint("fit_stream", _stream),
    EntryPoint("fit_stream-online", _online_stream, 1),
    EntryPoint("fit_partial", _partial, 1),
    EntryPoint("fit_partial-twice", _partial_twice, 2, _has_no_prior),
    EntryPoint("anneal", _anneal, suits=_is_tempered),
    EntryPoint("compare_algorithms", _compare_algorithms),
    EntryPoint("scikit-learn", _estimator, suits=_is_scikit_learns),
    EntryPoint("m_step", _by_hand, 1, _is_exact),
    EntryPoint("jit-fit", _fit_in_jit, STEPS, _keeps_rows, on_device=True),
    EntryPoint("jit-fit_restarts", _restarts_in_jit, STEPS, _keeps_rows, on_device=True),
    EntryPoint("jit-anneal", _anneal_in_jit, STEPS, _keeps_rows_and_is_tempered, on_device=True),
    EntryPoint("jit-fit_partial", _partial_in_jit, 1, _keeps_rows, on_device=True),
)
