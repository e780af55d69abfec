"""After the fit: information criteria, and a sweep over models. Small is good; all are on the scale of -2 log L."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.contract.constraints import n_free_params
from jaxem.contract.model import Model
from jaxem.contract.posterior import posterior_of
from jaxem.engine.result import PROPER, Result, Status
from jaxem.fitting.data import check_data
from jaxem.fitting.fit import DEFAULT_MAX_STEPS, DEFAULT_TOL
from jaxem.fitting.restarts import Restarts, best_of, fit_restarts, optima
from jaxem.fitting.sizes import fit_sizes, groups, padded
from jaxem.inputs import arrays
from jaxem.numerics.compilation import Program, work_of_arguments

CRITERIA = ("aic", "bic", "icl")


def aic(model: Model, result: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """Akaike's information criterion, -2 log L + 2 p, with p the number of free parameters; small is good.

    result: one fit of `model` on x. Akaike (1974), IEEE Transactions on Automatic Control 19, 716-723.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> round(float(jaxem.aic(model, result, x)), 1)            # 2 * 1130.26 + 2 * 11
    2282.5
    """
    return _deviance(result) + 2 * n_free_params(model, result.params)


def bic(model: Model, result: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The Bayesian information criterion, -2 log L + p ln n; small is good.

    p is the number of free parameters, n the total weight of the rows (their number without weights;
    a sequence counts as its length). Packages that report 2 log L - p ln n (mclust) have the sign the other way.
    Schwarz (1978), Annals of Statistics 6, 461-464.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> round(float(jaxem.bic(model, result, x)), 1)            # 2 * 1130.26 + 11 ln 272
    2322.2
    """
    n = model.n_observations(x, weights)
    return _deviance(result) + n_free_params(model, result.params) * jnp.log(n)


def icl(model: Model, result: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The integrated completed likelihood, BIC + 2 sum_i w_i H(q_i); small is good.

    H(q_i) is the entropy of row i's responsibilities in nats: components that overlap are paid for, so ICL chooses
    clusters where BIC chooses a density. Biernacki, Celeux and Govaert (2000), IEEE PAMI 22, 719-725, with the
    entropy in place of the hard assignment, as in McLachlan and Peel (2000), section 6.10.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> bool(jaxem.icl(model, result, x) > jaxem.bic(model, result, x))
    True
    """
    value = bic(model, result, x, weights)
    data = check_data(model, x, weights, 0, 0, None)
    data.choose_frame(result.params)
    params = jax.tree.map(lambda leaf: leaf[None], data.frame.params(result.params))
    return value + 2 * _entropies(data.inner, params, data.x, data.weights)[0]


def _deviance(result):
    if jnp.ndim(result.log_lik):
        raise ValueError(f"result: expected one fit; got {len(result.log_lik)} side by side (use the best of them)")
    return -2 * result.log_lik


def _entropy(model, params, x, weights):
    """Total entropy of the responsibilities, in nats."""
    entropy = posterior_of(model, model.e_step(params, x).resp).assignment_entropy()
    return jnp.where(weights > 0, weights * entropy, 0).sum()


_entropies = Program(jax.vmap(_entropy, in_axes=(None, 0, None, None)), work_of_arguments)


class Candidate(NamedTuple):
    """One model of a sweep. Criteria are those of `best`; icl is NaN where the model has no latent entropy.

    n_reached: how many restarts ended at the best optimum, by a proper status.
    """

    name: Any
    model: Any
    best: Result
    restarts: Restarts
    n_free_params: int
    aic: float
    bic: float
    icl: float
    n_reached: int

    @property
    def proper(self) -> bool:
        """False where every restart collapsed or failed: the criteria then mean nothing."""
        return Status(int(self.best.status)) in PROPER and bool(np.isfinite(self.best.objective))

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended one of its restarts."""
        return bool((np.asarray(self.restarts.all.status) == Status.INTERRUPTED).any())


def select(
    models: Iterable[Model] | Mapping[Any, Model],
    x: Any,
    key: jax.Array,
    *,
    n_restarts: int,
    criterion: str = "bic",
    weights: ArrayLike | None = None,
    algorithm: Algorithm = EM(),  # noqa: B008  (immutable)
    tol: float | jax.Array = DEFAULT_TOL,
    max_steps: int | jax.Array = DEFAULT_MAX_STEPS,
    callback: Callable[..., Any] | None = None,
) -> list[Candidate]:
    """Fit every model from `n_restarts` starts and rank them: the first of the list is the one to choose.

    models: a dict by name, or a list. criterion: "aic", "bic" or "icl". The other arguments are those of
    `fit_restarts`. callback(candidate) is called on the host as models are finished. Ctrl-C ends the sweep: the list
    then holds the models up to those under way, which are `interrupted`.

    A model of which no start ended honestly (each collapsed or failed) comes after all others, whatever it scores.
    Small mixtures that differ only in their number of components share one compiled program.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> models = {k: jaxem.gaussian_mixture(k, covariance="tied") for k in (2, 3, 4)}
    >>> first, *_ = jaxem.select(models, x, jax.random.key(0), n_restarts=16)
    >>> first.name, round(first.bic, 1)
    (3, 2314.3)
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion: expected one of {', '.join(CRITERIA)}; got {criterion!r}")
    models = _named(models)
    arrays.check_number("n_restarts", n_restarts, 1, whole=True)
    x, n_restarts = arrays.as_rows(x), int(n_restarts)
    options = dict(n_restarts=n_restarts, weights=weights, algorithm=algorithm, tol=tol, max_steps=max_steps)
    candidates = []
    for names in groups(models, arrays.n_rows(x), n_restarts, algorithm):
        found = _candidates({name: models[name] for name in names}, x, key, options)
        candidates += found
        if callback is not None:
            for candidate in found:
                callback(candidate)
        if any(candidate.interrupted for candidate in found):
            break
    return rank(candidates, criterion)


def rank(candidates: Any, criterion: str = "bic") -> list[Candidate]:
    """Candidates (of one sweep or of several on the same data) by a criterion, those without a proper fit last."""
    return sorted(candidates, key=lambda c: (not c.proper, np.nan_to_num(getattr(c, criterion), nan=np.inf)))


def _named(models) -> dict:
    named = dict(models) if isinstance(models, Mapping) else dict(enumerate(models))
    if not named:
        raise ValueError("models: expected at least one; got none")
    return named


def _candidates(models, x, key, options):
    """Candidates for models that one program can fit (or for a single model)."""
    members = list(models.values())
    if len(members) == 1:
        restarts = [fit_restarts(members[0], x, key, **options)]
    else:
        restarts = fit_sizes(members, x, key, **options)
    entropies = _latent_entropies(members, [each.best for each in restarts], x, options["weights"])
    n = [float(model.n_observations(x, options["weights"])) for model in members]
    return [_candidate(*row) for row in zip(models, members, restarts, entropies, n, strict=True)]


def _latent_entropies(models, results, x, weights):
    sizes = [getattr(model, "n_components", 1) for model in models]
    largest = models[int(np.argmax(sizes))]
    data = check_data(largest, x, weights, 0, 0, None)
    every = [data.frame.params(result.params) for result in results]
    if len(models) > 1:
        every = [padded(model, params, max(sizes)) for model, params in zip(models, every, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *every)
    try:
        return np.asarray(_entropies(data.inner, stacked, data.x, data.weights), np.float64)
    except NotImplementedError:
        return np.full(len(models), np.nan)


def _candidate(name, model, restarts, entropy, n) -> Candidate:
    best, fits = restarts
    p, deviance = n_free_params(model, best.params), -2 * float(best.log_lik)
    bic = deviance + p * float(np.log(n))
    index = int(best_of(fits))
    reached = next(optimum for optimum in optima(fits) if index in optimum.restarts)
    proper = sum(count for status, count in reached.statuses.items() if Status[status] in PROPER)
    return Candidate(name, model, best, restarts, p, deviance + 2 * p, bic, bic + 2 * float(entropy), proper)
