"""Information criteria of fits, and the selection of a model by them.

All criteria are on the scale of -2 log L, where L is the likelihood: smaller is better.
"""

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
    """Akaike's information criterion, -2 log L + 2 p; smaller is better.

    p is the number of free parameters. Akaike (1974), IEEE Transactions on Automatic Control 19,
    716-723.

    Args:
        model: the model.
        result: one fit of `model` to x.
        x: not used; the criteria share their arguments.
        weights: not used.

    Raises:
        ValueError: `result` holds many fits.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
        >>> round(float(jaxem.aic(model, result, x)), 1)            # 2 * 1130.26 + 2 * 11
        2282.5
    """
    return _deviance(result) + 2 * n_free_params(model, result.params)


def bic(model: Model, result: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The Bayesian information criterion, -2 log L + p ln n; smaller is better.

    p is the number of free parameters. n is the total weight of the rows, or their number without
    weights; a sequence counts as its length. Some packages (mclust) report the opposite sign,
    2 log L - p ln n. Schwarz (1978), Annals of Statistics 6, 461-464.

    Args:
        model: the model.
        result: one fit of `model` to x.
        x: the rows [n, ...] of the fit.
        weights: the sample weights [n] of the fit, or None.

    Raises:
        ValueError: `result` holds many fits.

    Examples:
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
    """The integrated completed likelihood, BIC + 2 sum_i w_i H(q_i); smaller is better.

    H(q_i) is the entropy of the responsibilities of row i, in nats. It is a penalty on components
    that overlap, so ICL chooses clusters where BIC chooses a density. Biernacki, Celeux and Govaert
    (2000), IEEE PAMI 22, 719-725, with the entropy in place of the hard assignment, as in McLachlan
    and Peel (2000), section 6.10.

    Args:
        model: a model with discrete hidden values.
        result: one fit of `model` to x.
        x: the rows [n, ...] of the fit.
        weights: the sample weights [n] of the fit, or None.

    Raises:
        ValueError: `result` holds many fits.
        NotProvidedError: the model's posterior has no `assignment_entropy`.

    Examples:
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
        raise ValueError(f"result: expected one fit; got {len(result.log_lik)} fits (use the best of them)")
    return -2 * result.log_lik


def _entropy(model, params, x, weights):
    """The entropy of the responsibilities, total in nats."""
    entropy = posterior_of(model, model.e_step(params, x).resp).assignment_entropy()
    return jnp.where(weights > 0, weights * entropy, 0).sum()


_entropies = Program(jax.vmap(_entropy, in_axes=(None, 0, None, None)), work_of_arguments)


class Candidate(NamedTuple):
    """One model of `select`, its fits, and its criteria.

    Attributes:
        name: the name of the model.
        model: the model.
        best: its best fit, for which the criteria are computed.
        restarts: all its fits.
        n_free_params: the number of free parameters.
        aic: as in `jaxem.aic`.
        bic: as in `jaxem.bic`.
        icl: as in `jaxem.icl`; NaN where the model has no entropy of hidden values.
        n_reached: how many restarts reached the best optimum with a proper status.
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
        """Whether the best fit is finite and proper; otherwise the criteria mean nothing."""
        return Status(int(self.best.status)) in PROPER and bool(np.isfinite(self.best.objective))

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C interrupted one of the restarts."""
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
    """Fit every model from `n_restarts` starts, and rank the models by a criterion.

    A model without a proper fit (all its fits collapsed or failed) comes after all others, whatever
    its criterion is. Small mixtures that differ only in their number of components are fitted in
    one compiled program.

    Ctrl-C ends the selection. The list then holds the models up to those that were being fitted,
    which are `interrupted`.

    Args:
        models: the models, a dict by name or a list.
        x: rows [n, ...].
        key: a random key.
        n_restarts: the number of starts of each model.
        criterion: "aic", "bic" or "icl".
        weights: as in `fit_restarts`.
        algorithm: as in `fit_restarts`.
        tol: as in `fit_restarts`.
        max_steps: as in `fit_restarts`.
        callback: a function that is called on the host with each finished `Candidate`.

    Returns:
        The candidates, the best one first.

    Raises:
        ValueError: an argument is not usable.

    Examples:
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
    n_rows, n_restarts = arrays.n_rows(next(iter(models.values())).rows(x)), int(n_restarts)
    options = dict(n_restarts=n_restarts, weights=weights, algorithm=algorithm, tol=tol, max_steps=max_steps)
    candidates = []
    for names in groups(models, n_rows, n_restarts, algorithm):
        found = _candidates({name: models[name] for name in names}, x, key, options)
        candidates += found
        if callback is not None:
            for candidate in found:
                callback(candidate)
        if any(candidate.interrupted for candidate in found):
            break
    return rank(candidates, criterion)


def rank(candidates: Any, criterion: str = "bic") -> list[Candidate]:
    """Sort candidates by a criterion; those without a proper fit come last.

    Args:
        candidates: the results of one or several calls of `select` on the same data.
        criterion: "aic", "bic" or "icl".
    """
    return sorted(candidates, key=lambda c: (not c.proper, np.nan_to_num(getattr(c, criterion), nan=np.inf)))


def _named(models) -> dict:
    named = dict(models) if isinstance(models, Mapping) else dict(enumerate(models))
    if not named:
        raise ValueError("models: expected at least one; got none")
    return named


def _candidates(models, x, key, options):
    """The candidates for models that one program can fit, or for a single model."""
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
