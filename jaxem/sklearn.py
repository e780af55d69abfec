"""A Gaussian mixture with the interface of scikit-learn, fitted by jaxem.

To use it in code for scikit-learn, change the import:

    from jaxem.sklearn import GaussianMixture  # was: from sklearn.mixture import GaussianMixture
"""

import warnings
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxem.contract.constraints import n_free_params
from jaxem.engine.result import Status
from jaxem.families.gaussian import GaussianParams
from jaxem.fitting.restarts import fit_restarts
from jaxem.inputs import arrays
from jaxem.latent.mixture import MixtureParams
from jaxem.presets import gaussian_mixture

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")

#: Fewer rows than this are padded to this number, which does not cost more.
SMALL = 64


class GaussianMixture(DensityMixin, BaseEstimator):
    """A Gaussian mixture with the interface of `sklearn.mixture.GaussianMixture`.

    It has the same parameters, attributes and methods. The arithmetic has the precision of X:
    float64 stays float64 whatever `jax_enable_x64` says; float32 is faster on an accelerator. All
    `n_init` starts run side by side in one compiled program.

    These are the differences from scikit-learn:

    - `reg_covar` is a lower bound on the eigenvalues of the covariances, *relative to the data's
      variance*, in [0, 1). It changes nothing where it is not reached. scikit-learn adds it to
      every variance in every M-step, in the squared units of the data, which biases the fit and
      lets the likelihood fall. The value 0 switches it off in both.
    - Data whose covariance matrix does not have full rank (a constant column, dependent columns, no
      more rows than columns with "full" or "tied") raise an error that names the columns.
      scikit-learn fits them, with `reg_covar` in place of the missing variances.
    - `lower_bound_` is the mean log-likelihood, in nats per sample, *at the fitted parameters*.
      scikit-learn reports that of the parameters before its last M-step. `tol` has the same unit
      and meaning: a fit stops when a step gains no more than `tol`. It also stops at gains that the
      precision does not resolve, so that a fit with `tol=0` ends.
    - `n_iter_` is the number of M-steps that led to the parameters, at least 1 if one was tried.
    - The best of `n_init` fits is the best proper one, so a fit with a component that collapsed
      onto a few samples is not chosen before it. `status_` says how the fit ended
      (`jaxem.Status`). Unless it converged to a proper optimum with every component in use,
      `converged_` is False, and a `ConvergenceWarning` gives the reason.
    - A `random_state` gives the same starts as in scikit-learn. With "k-means++" and
      "random_from_data" each sample is assigned to the nearest chosen one, where scikit-learn uses
      `reg_covar` for the covariances in the first iteration. "mixed" is a further kind of start,
      which `jaxem.fit_restarts` uses by default: four kinds in turn, in standard units, made inside
      the compiled program. It is the best kind for many starts.
    - With all of `weights_init`, `means_init` and `precisions_init`, nothing is random, and only
      one fit is run.
    - `fit` and `fit_predict` take `sample_weight`: a sample of weight w counts as w samples.
    - `verbose` prints after the compiled fit has ended, not while it runs.

    Raises:
        ValueError: a parameter is not usable (the message names it), or no start gave a finite
            likelihood. It is raised by `fit`.

    Examples:
        >>> import jaxem
        >>> from jaxem.sklearn import GaussianMixture
        >>> options = {"n_init": 16, "tol": 1e-9, "max_iter": 2000, "random_state": 0}
        >>> mixture = GaussianMixture(3, covariance_type="tied", **options)
        >>> x = jaxem.datasets.old_faithful()
        >>> round(mixture.fit(x).bic(x), 2), mixture.means_.shape
        (2314.3, (3, 2))
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    # --- fitting ----------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture to the rows of X.

        Args:
            X: [n_samples, n_features].
            y: not used.
            sample_weight: [n_samples]; how often each sample counts. None means once.
        """
        self._check_options()
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if len(X) < self.n_components:
            raise ValueError(f"Expected n_samples >= n_components={self.n_components}; got n_samples = {len(X)}")
        weight = _sample_weight(sample_weight, X)
        total = float(weight.sum())
        with _precision_of(X):
            fits, best = self._run(*_padded(X, weight))
        self._report(fits, total)
        self._keep(jax.tree.map(np.asarray, best), total)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture, and return the most probable component of each sample [n_samples]."""
        return self.fit(X, y, sample_weight).predict(X)

    def _run(self, X, weight):
        """(all fits, the best fit)."""
        model = gaussian_mixture(int(self.n_components), self.covariance_type, float(self.reg_covar))
        options = {"weights": weight, "tol": self.tol, "max_steps": self.max_iter}
        random_state = check_random_state(self.random_state)
        parts = self._start_parts(X.shape[1])
        n_init = int(self.n_init)
        if self.init_params == "mixed" and all(part is None for part in parts):
            best, fits = fit_restarts(model, X, _key(random_state), n_restarts=n_init, **options)
            return fits, best
        if all(part is not None for part in parts):
            starts = [_params(*parts)]
        else:
            starts = [_replaced(self._draw(model, X, weight, random_state), parts) for _ in range(n_init)]
        starts = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
        best, fits = fit_restarts(model, X, jax.random.key(0), start=starts, **options)
        return fits, best

    def _draw(self, model, X, weight, random_state):
        """One random start."""
        if self.init_params == "mixed":
            return model.init(_key(random_state), X, weight)
        used = weight > 0
        resp = np.zeros((len(X), model.n_components), X.dtype)
        resp[used] = START[self.init_params](X[used], weight[used], model.n_components, random_state)
        return model.m_step(resp, X, weight)

    def _keep(self, best, total):
        status = Status(int(best.status))
        if status == Status.NONFINITE:
            raise ValueError(f"No start gave a finite likelihood. {status.message}")
        if status != Status.CONVERGED and self.max_iter > 0:
            warnings.warn(f"{status.name}: {status.message}", ConvergenceWarning, stacklevel=3)
        self.status_ = status
        self.converged_ = status == Status.CONVERGED
        self.n_iter_ = max(int(best.n_steps), min(1, int(self.max_iter)))
        self.lower_bound_ = float(best.log_lik) / total
        self.lower_bounds_ = (best.history[: int(best.n_steps)] / total).tolist()
        self.weights_ = best.params.weights
        self.means_, self.covariances_ = best.params.components
        self.precisions_cholesky_, self.precisions_ = _precision_factors(self.covariances_, self.covariance_type)

    def _report(self, fits, total):
        """Print what `verbose` asks for, after the fits have ended."""
        if not self.verbose:
            return
        history = np.asarray(fits.history) / total
        for r, (status, n_steps) in enumerate(zip(np.asarray(fits.status), np.asarray(fits.n_steps), strict=True)):
            print(f"Initialization {r}")
            for step in range(self.verbose_interval, int(n_steps) + 1, self.verbose_interval):
                told = self.verbose > 1 and step > 1
                gain = f"\t ll change {history[r, step - 1] - history[r, step - 2]:.5g}" if told else ""
                print(f"  Iteration {step}{gain}")
            end = f"\t lower bound {history[r, n_steps - 1]:.5f}" if self.verbose > 1 and n_steps else ""
            print(f"Initialization {Status(int(status)).name.lower()} after {n_steps} iterations.{end}")

    # --- the fitted model -------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each sample [n_samples], in nats."""
        return self._evaluate("log_prob", X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-likelihood of the samples, in nats per sample."""
        return float(np.mean(self.score_samples(X)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component given each sample, [n_samples, n_components]."""
        return self._evaluate("posterior", X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each sample [n_samples]."""
        return self._evaluate("predict", X).astype(np.int64)

    def bic(self, X: Any) -> float:
        """The Bayesian information criterion on X; smaller is better (Schwarz, 1978)."""
        log_prob = self.score_samples(X)
        return float(-2 * log_prob.sum() + self._n_parameters() * np.log(len(log_prob)))

    def aic(self, X: Any) -> float:
        """Akaike's information criterion on X; smaller is better (Akaike, 1974)."""
        return float(-2 * self.score_samples(X).sum() + 2 * self._n_parameters())

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw samples, which are ordered by their components.

        Args:
            n_samples: the number of samples.

        Returns:
            (samples [n_samples, n_features], their components [n_samples]).
        """
        check_is_fitted(self)
        arrays.check_number("n_samples", n_samples, 1, whole=True)
        with _precision_of(self.means_):
            model, params = self._fitted(self.means_.dtype)
            labels, rows = model.sample_joint(params, _key(check_random_state(self.random_state)), int(n_samples))
            labels, rows = np.asarray(labels), np.asarray(rows)
        order = np.argsort(labels, kind="stable")
        return rows[order], labels[order].astype(np.int64)

    def _fitted(self, dtype):
        model = gaussian_mixture(len(self.weights_), self.covariance_type)
        return model, _params(self.weights_, self.means_, self.covariances_, dtype)

    def _evaluate(self, method, X):
        """A method of the fitted model on the rows of X."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        rows, _ = _padded(X, np.ones(len(X)))
        with _precision_of(X):
            model, params = self._fitted(X.dtype)
            return np.asarray(getattr(model, method)(params, jnp.asarray(rows)))[: len(X)]

    def _n_parameters(self):
        return n_free_params(*self._fitted(np.float64))

    # --- checks -----------------------------------------------------------------------------------

    def _check_options(self):
        for name, minimum in (("n_components", 1), ("max_iter", 0), ("n_init", 1), ("verbose_interval", 1)):
            arrays.check_number(name, getattr(self, name), minimum, whole=True)
        arrays.check_number("verbose", int(self.verbose) if self.verbose is True else self.verbose or 0, 0, whole=True)
        arrays.check_number("tol", self.tol, 0)
        arrays.check_number("reg_covar", self.reg_covar, 0)
        if self.reg_covar >= 1:
            raise ValueError(
                f"reg_covar: expected less than 1 (relative to the data's variance); got {self.reg_covar!r}"
            )
        for name, known in (("covariance_type", COVARIANCE_TYPES), ("init_params", tuple(START))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}; got {getattr(self, name)!r}")
        if not isinstance(self.warm_start, (bool, np.bool_)):
            raise ValueError(f"warm_start: expected True or False; got {self.warm_start!r}")

    def _shapes(self, d):
        """The shapes of weights, means and covariances (or precisions)."""
        k = int(self.n_components)
        covariance = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
        return (k,), (k, d), covariance[self.covariance_type]

    def _start_parts(self, d):
        """(weights, means, covariances) to start from; None for a part that is random."""
        shapes = self._shapes(d)
        if self.warm_start and hasattr(self, "converged_"):
            fitted = (self.weights_, self.means_, self.covariances_)
            if tuple(map(np.shape, fitted)) != shapes:
                raise ValueError(
                    f"warm_start: the last fit has means_ of shape {self.means_.shape} and "
                    f"covariances_ of shape {self.covariances_.shape}; this one needs {shapes[2]} and means {shapes[1]}"
                )
            return fitted
        weights = _given("weights_init", self.weights_init, shapes[0])
        means = _given("means_init", self.means_init, shapes[1])
        precisions = _given("precisions_init", self.precisions_init, shapes[2])
        return (
            None if weights is None else _proportions(weights),
            means,
            None if precisions is None else _covariances(precisions, self.covariance_type),
        )


def _padded(X, weight):
    """X and weight with rows of weight 0 added.

    Data of nearly the same size, such as folds, and all small data then share a compiled program.
    """
    return arrays.pad_rows(X, weight, arrays.bucket(max(len(X), SMALL)))


def _precision_of(array):
    """A context of float64 arithmetic for float64 data, whatever the default dtype of JAX is."""
    return jax.enable_x64(True) if array.dtype == np.float64 else nullcontext()


def _key(random_state):
    return jax.random.key(random_state.randint(np.iinfo(np.int32).max))


def _params(weights, means, covariances, dtype=np.float64):
    return jax.tree.map(lambda a: np.asarray(a, dtype), MixtureParams(weights, GaussianParams(means, covariances)))


def _replaced(params, parts):
    """params with the parts that are not None."""
    drawn = (params.weights, *params.components)
    return _params(*(old if part is None else part for part, old in zip(parts, drawn, strict=True)))


# --- starts, drawn as scikit-learn draws them -----------------------------------------------------


def _kmeans(X, weight, k, random_state):
    kmeans = KMeans(k, n_init=1, random_state=random_state)  # pyright: ignore[reportArgumentType]
    return np.eye(k)[kmeans.fit(X, sample_weight=weight).labels_]


def _kmeans_plusplus(X, weight, k, random_state):
    return _nearest(X, kmeans_plusplus(X, k, sample_weight=weight, random_state=random_state)[0])


def _random_rows(X, weight, k, random_state):
    chance = None if (weight == 1).all() else weight / weight.sum()
    return _nearest(X, X[random_state.choice(len(X), k, replace=False, p=chance)])


def _random_resp(X, weight, k, random_state):
    resp = random_state.uniform(size=(len(X), k))
    return resp / resp.sum(1, keepdims=True)


def _nearest(X, centres):
    return np.eye(len(centres))[pairwise_distances_argmin(X, centres)]


#: The functions that draw responsibilities [n, k], by the name of the kind of start. Starts of the
#: kind "mixed" are made inside the compiled program.
START = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random_resp,
    "random_from_data": _random_rows,
    "mixed": None,
}


# --- what comes in and what goes out --------------------------------------------------------------


def _sample_weight(value, X):
    if value is None:
        return np.ones(len(X), X.dtype)
    value = check_array(value, dtype=X.dtype, ensure_2d=False, allow_nd=True, input_name="sample_weight")
    if value.shape != (len(X),):
        raise ValueError(f"sample_weight: expected shape ({len(X)},), one per row of X; got {value.shape}")
    if (value < 0).any() or not value.any():
        problem = "negative" if value.any() else "zero"
        raise ValueError(f"sample_weight: {'some' if value.any() else 'all'} are {problem}")
    return value


def _given(name, value, shape):
    if value is None:
        return None
    value = check_array(value, dtype="float64", ensure_2d=False, allow_nd=True, input_name=name)
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}; got {value.shape}")
    return value


def _proportions(weights):
    if (weights < 0).any() or not np.isclose(weights.sum(), 1, atol=1e-6):
        raise ValueError(f"weights_init: expected non-negative numbers that sum to 1; got {weights}")
    return weights / weights.sum()


def _covariances(precisions, covariance_type):
    """The inverses of the precisions, which are checked first."""
    problem = "precisions_init: expected {} for covariance_type={!r}"
    if covariance_type in ("diag", "spherical"):
        if (precisions <= 0).any():
            raise ValueError(problem.format("positive numbers", covariance_type))
        return 1 / precisions
    transposed = np.swapaxes(precisions, -1, -2)
    if not np.allclose(precisions, transposed) or (np.linalg.eigvalsh(precisions) <= 0).any():
        raise ValueError(problem.format("symmetric positive definite matrices", covariance_type))
    inverse = np.linalg.inv(precisions)
    return 0.5 * (inverse + np.swapaxes(inverse, -1, -2))


def _precision_factors(covariances, covariance_type):
    """(precisions_cholesky_, precisions_), as in scikit-learn.

    The first is the upper triangular U with precision = U U^T, or 1 / sd where it is diagonal.
    """
    wide = covariances.astype(np.float64)
    if covariance_type in ("diag", "spherical"):
        factors, precisions = 1 / np.sqrt(wide), 1 / wide
    else:
        # The matrices are factored at unit variances, so that success does not depend on scales.
        deviation = np.sqrt(np.diagonal(wide, axis1=-2, axis2=-1))
        lower = np.linalg.cholesky(wide / (deviation[..., :, None] * deviation[..., None, :]))
        inverse = np.tril(np.linalg.inv(lower)) / deviation[..., None, :]
        factors = np.swapaxes(inverse, -1, -2)
        precisions = factors @ inverse
    return factors.astype(covariances.dtype), precisions.astype(covariances.dtype)
