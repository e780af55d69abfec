"""ONE table of models with small data: every law, and every algorithm, is tried on each row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import small_data as data
from references import (
    dense_normal,
    factor_mixture,
    gaussian_joint,
    hmmlearn_scores,
    lines_of_one_variance,
    marginal,
    mixture_of_mixtures,
    of_codes,
    of_counts,
    of_gaussians,
    of_groups_of_counts,
    of_intervals,
    of_labelled_normals,
    seen_normals,
    student_t_mixture,
)
from scipy.special import expit, logsumexp
from scipy.stats import (
    bernoulli,
    expon,
    gamma,
    geom,
    lognorm,
    multinomial,
    nbinom,
    norm,
    poisson,
    vonmises_fisher,
)

import jaxem


class Row(NamedTuple):
    """A model of the zoo.

    data: makes x (float64). reference: (params, x) -> log p(x_i) [n], by code that is not ours.
    affine: x -> (changed x, log volume per row) under which the model is equivariant.
    skipped: parts of the descriptions of those checks that do not apply to it.
    core: all ten laws are checked in both dtypes in every run; for the other rows `rotation.py` says on which day.
    shown: its place in the README's table of models: (group, what one writes, or "" for one that is shown already).
    """

    name: str
    model: Any
    data: Callable[[], Any]
    reference: Callable | None = None
    affine: Callable | None = None
    exact_m_step: bool = True
    skipped: tuple[str, ...] = ()
    core: bool = False
    shown: tuple[str, str] = ("", "")


#: Groups of the README's table.
VECTORS, NUMBERS, CODES = "vectors", "numbers and counts", "bits, codes, tables"
GIVEN, SEQUENCES, FACTORS, HARD, COMPOSED = "given inputs", "sequences", "continuous latents", "hard", "composed"

#: Checks that many rows have nothing to say on, as their descriptions or reasons name them.
UNITS, DRAWS, AFFINE_CHANGE, NUMBERING = "no standard units", "add up to 1", "no affine=", "numbering of components"
REFERENCE, BOUND, EXACT = "no reference=", "not provided: entropy", "exact_m_step=False"


def _affine(matrix):
    def change(x):
        a = np.asarray(matrix(x.shape[1]), x.dtype)
        return x @ a + np.asarray(1.5, x.dtype), np.asarray(np.linalg.slogdet(a.astype(float))[1], x.dtype)

    return change


def _any_matrix(d):
    return np.eye(d) * 2.0 + 0.5 * np.random.default_rng(5).standard_normal((d, d))


AFFINE = {
    "full": _affine(_any_matrix),
    "diag": _affine(lambda d: np.diag(10.0 ** np.arange(d))),
    "spherical": _affine(lambda d: 0.01 * np.eye(d)),
}


def gaussian(covariance, d, k=3, n=90):
    """The row of a Gaussian mixture."""
    shape = {"tied": "full", "diag_tied": "diag", "spherical_tied": "spherical"}.get(covariance, covariance)
    return Row(
        f"gaussian-{covariance}-{d}d",
        jaxem.gaussian_mixture(k, covariance),
        lambda: data.groups(n, d, k),
        reference=lambda params, x: logsumexp(gaussian_joint(covariance, params, x), axis=1),
        affine=AFFINE[shape],
        core=covariance in ("full", "diag") and d == 2,
        shown=(VECTORS, "gaussian_mixture(k, covariance)"),
    )


# --- families with scipy's densities ----------------------------------------------------------------------------


def scaled(x):
    """Times in another unit."""
    return x * np.asarray(3, x.dtype), np.log(np.asarray(3, x.dtype))


def one(name, preset, make, log_density, shown, *, affine=None, skipped=(), **options):
    """The row of a mixture whose components have a density by scipy."""
    missing = () if affine else (AFFINE_CHANGE,)
    return Row(name, preset, make, marginal(log_density), affine, skipped=(*missing, *skipped), shown=shown, **options)


FAMILIES = (
    one(
        "poisson",
        jaxem.poisson_mixture(2),
        data.counts,
        lambda rate, x: poisson.logpmf(x, rate),
        (NUMBERS, "poisson_mixture(k, exposure)"),
        core=True,
        skipped=(DRAWS,),  # in standard units counts carry exposures, which `sample` does not draw
    ),
    one(
        "poisson-exposure",
        jaxem.poisson_mixture(2, exposure=True),
        data.exposed_counts,
        lambda rate, x: poisson.logpmf(x[0], rate * x[1]),
        (NUMBERS, "poisson_mixture(k, exposure)"),
        skipped=(DRAWS,),
    ),
    one(
        "negative-binomial",
        jaxem.negative_binomial_mixture(2),
        data.overdispersed,
        lambda size, mean, x: nbinom.logpmf(x, size, size / (size + mean)),
        (NUMBERS, "negative_binomial_mixture(k)"),
        exact_m_step=False,
        skipped=(UNITS, BOUND, EXACT),
    ),
    one(
        "geometric",
        jaxem.geometric_mixture(2),
        data.failures,
        lambda prob, x: geom.logpmf(x, prob, loc=-1),
        (NUMBERS, "geometric_mixture(k)"),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "exponential",
        jaxem.exponential_mixture(2),
        data.times,
        lambda rate, x: expon.logpdf(x, scale=1 / rate),
        (NUMBERS, "exponential_mixture(k)"),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "gamma",
        jaxem.gamma_mixture(2),
        data.times,
        lambda shape, rate, x: gamma.logpdf(x, shape, scale=1 / rate),
        (NUMBERS, "gamma_mixture(k)"),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "log-normal",
        jaxem.log_normal_mixture(2),
        data.times,
        lambda mean, var, x: lognorm.logpdf(x, np.sqrt(var), scale=np.exp(mean)),
        (NUMBERS, "log_normal_mixture(k)"),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "bernoulli",
        jaxem.bernoulli_mixture(2),
        data.bits,
        lambda prob, x: bernoulli.logpmf(x, prob).sum(1),
        (CODES, "bernoulli_mixture(k)"),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "categorical",
        jaxem.categorical_mixture(2, (3, 2, 4)),
        data.codes,
        lambda prob, x: np.log(prob[np.arange(3), x.astype(int)]).sum(1),
        (CODES, "categorical_mixture(k, n_categories)"),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "multinomial",
        jaxem.multinomial_mixture(2),
        data.table,
        lambda prob, x: multinomial.logpmf(x, x.sum(1), prob / prob.sum()),
        (CODES, "multinomial_mixture(k)"),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "von-mises-fisher",
        jaxem.von_mises_fisher_mixture(2),
        data.directions,
        lambda mean, concentration, x: vonmises_fisher(mean / np.linalg.norm(mean), concentration).logpdf(x),
        (VECTORS, "von_mises_fisher_mixture(k)"),
        skipped=(UNITS, DRAWS),
    ),
)


# --- Student-t, regressions, factors ------------------------------------------------------------------------------


def student_t(covariance, df):
    return Row(
        f"student-t-{covariance}-{df}",
        jaxem.student_t_mixture(2, covariance, df=df),
        lambda: data.groups(90, 2),
        student_t_mixture(covariance),
        AFFINE[covariance],
        shown=(VECTORS, "student_t_mixture(k, covariance, df)"),
    )


def factors(name, model, make, shown, *, exact_m_step=True):
    reference = factor_mixture(model.component.noise)
    skipped = (AFFINE_CHANGE,) if exact_m_step else (AFFINE_CHANGE, EXACT)
    return Row(name, model, make, reference, exact_m_step=exact_m_step, skipped=skipped, shown=shown)


OTHERS = (
    student_t("full", "each"),
    student_t("diag", "tied"),
    student_t("spherical", 4.0),
    one(
        "linear-regression",
        jaxem.linear_regression_mixture(2),
        data.line_targets,
        lambda coef, var, x: norm.logpdf(x[1], x[0] @ coef, np.sqrt(var)),
        (GIVEN, "linear_regression_mixture(k, variance)"),
        skipped=(DRAWS,),
    ),
    Row(
        "linear-regression-tied",
        jaxem.linear_regression_mixture(2, variance="tied"),
        data.line_targets,
        lines_of_one_variance,
        skipped=(AFFINE_CHANGE, DRAWS),
        shown=(GIVEN, "linear_regression_mixture(k, variance)"),
    ),
    one(
        "poisson-regression",
        jaxem.poisson_regression_mixture(2),
        data.count_targets,
        lambda coef, x: poisson.logpmf(x[1], np.exp(x[0] @ coef + x[2])),
        (GIVEN, "poisson_regression_mixture(k)"),
        skipped=(DRAWS, BOUND),
    ),
    one(
        "logistic-regression",
        jaxem.logistic_regression_mixture(2),
        data.bit_targets,
        lambda coef, x: bernoulli.logpmf(x[1], expit(x[0] @ coef)),
        (GIVEN, "logistic_regression_mixture(k)"),
        skipped=(DRAWS, BOUND),
    ),
    Row(
        "gated",
        jaxem.GatedMixture(jaxem.Gaussian("diag"), 2),
        lambda: (data.groups(90, 2, 2), data.inputs()),
        skipped=(AFFINE_CHANGE, REFERENCE, DRAWS, BOUND),
        shown=(GIVEN, "GatedMixture(family, k)"),
    ),
    factors(
        "factor-analysis",
        jaxem.factor_analysis(1),
        lambda: data.groups(90, 4),
        (FACTORS, "factor_analysis(n_factors)"),
        exact_m_step=False,
    ),
    factors("ppca", jaxem.ppca(1), lambda: data.groups(90, 4), (FACTORS, "ppca(n_factors)")),
    factors(
        "mixture-of-factor-analysers",
        jaxem.Mixture(jaxem.FactorAnalyzer(1, "tied"), 2),
        lambda: data.groups(90, 4),
        (FACTORS, "Mixture(FactorAnalyzer(n_factors, noise), k)"),
        exact_m_step=False,
    ),
)


# --- compositions ---------------------------------------------------------------------------------------------------

AROUND = jaxem.UniformHull.around(data.groups(90, 2, 2))

COMPOSITIONS = (
    Row(
        "gaussian-with-noise",
        jaxem.gaussian_mixture_with_noise(2, [-8.0, -8.0], [8.0, 8.0]),
        lambda: data.groups(90, 2, 2),
        skipped=(AFFINE_CHANGE, REFERENCE, "different families", DRAWS),
        shown=(COMPOSED, "gaussian_mixture_with_noise(k, low, high)"),
    ),
    Row(
        "gaussian-with-hull-noise",
        jaxem.Mixture(jaxem.OneOf((jaxem.Gaussian("diag"), AROUND), (2, 1)), 3),
        lambda: data.groups(90, 2, 2),
        skipped=(AFFINE_CHANGE, REFERENCE, "different families", DRAWS),
        shown=(COMPOSED, "Mixture(OneOf(families, sizes), k)"),
    ),
    Row(
        "zero-inflated-poisson",
        jaxem.zero_inflated_poisson(3),
        data.inflated_counts,
        skipped=(AFFINE_CHANGE, REFERENCE, "different families", DRAWS),
        shown=(COMPOSED, "zero_inflated_poisson(k)"),
    ),
    Row(
        "mixed-columns",
        jaxem.Mixture(jaxem.Product((jaxem.Gaussian("diag"), jaxem.Poisson(), jaxem.Bernoulli())), 2),
        lambda: (data.groups(90, 2), data.counts(), data.bits()),
        skipped=(AFFINE_CHANGE, REFERENCE, DRAWS),
        shown=(COMPOSED, "Mixture(Product(families), k)"),
    ),
    Row(
        "mixture-of-mixtures",
        jaxem.Mixture(jaxem.Mixture(jaxem.Gaussian("diag"), 2), 2),
        lambda: data.groups(90, 2),
        reference=mixture_of_mixtures,
        skipped=(AFFINE_CHANGE,),
        shown=(COMPOSED, "Mixture(Mixture(family, m), k)"),
    ),
    Row(
        "kmeans",
        jaxem.kmeans(3),
        lambda: data.groups(90, 2),
        reference=lambda params, x: gaussian_joint("spherical_tied", params, x).max(1),
        affine=AFFINE["spherical"],
        skipped=("hard posterior", "log density"),
        shown=(HARD, "kmeans(k)"),
    ),
    Row(
        "hard-gaussian",
        jaxem.Hard(jaxem.gaussian_mixture(2)),
        lambda: data.groups(90, 2),
        reference=lambda params, x: gaussian_joint("full", params, x).max(1),
        affine=AFFINE["full"],
        skipped=("hard posterior", "log density"),
        shown=(HARD, "Hard(model)"),
    ),
)


# --- sequences ------------------------------------------------------------------------------------------------------


def chain(name, model, make, reference, shown, *, skipped=(), core=False):
    missing = () if reference else (REFERENCE,)
    skipped = (AFFINE_CHANGE, DRAWS, *missing, *skipped)
    return Row(name, model, make, reference, skipped=skipped, core=core, shown=(SEQUENCES, shown))


CHAINS = (
    chain(
        "gaussian-hmm",
        jaxem.gaussian_hmm(2),
        data.vector_sequences,
        hmmlearn_scores(of_gaussians),
        "gaussian_hmm(n_states, covariance)",
        core=True,
    ),
    chain(
        "gaussian-hmm-ragged",
        jaxem.gaussian_hmm(2, "diag"),
        data.ragged_sequences,
        hmmlearn_scores(of_gaussians),
        "gaussian_hmm(n_states, covariance)",
    ),
    chain(
        "poisson-hmm",
        jaxem.poisson_hmm(2),
        data.count_sequences,
        hmmlearn_scores(of_counts),
        "poisson_hmm(n_states)",
    ),
    chain(
        "poisson-hmm-stationary",
        jaxem.poisson_hmm(2, "stationary"),
        data.count_sequences,
        hmmlearn_scores(of_counts),
        "poisson_hmm(n_states)",
    ),
    chain(
        "categorical-hmm",
        jaxem.categorical_hmm(2, 3),
        data.code_sequences,
        hmmlearn_scores(of_codes),
        "categorical_hmm(n_states, n_categories)",
        skipped=(UNITS,),
    ),
    chain(
        "student-t-hmm",
        jaxem.HMM(jaxem.StudentT(jaxem.Gaussian("diag"), estimate="each"), 2),
        data.vector_sequences,
        None,
        "HMM(family or model, n_states)",
    ),
    chain(
        "hmm-of-mixtures",
        jaxem.HMM(jaxem.Mixture(jaxem.Gaussian("diag"), 2), 2),
        data.vector_sequences,
        None,
        "HMM(family or model, n_states)",
    ),
    chain(
        "mixture-of-hmms",
        jaxem.Mixture(jaxem.HMM(jaxem.Poisson(), 2), 2),
        data.count_sequences,
        None,
        "Mixture(HMM(family, n_states), k)",
    ),
    chain(
        "state-space",
        jaxem.StateSpace(1),
        data.walks,
        dense_normal,
        "StateSpace(n_factors)",
        skipped=(NUMBERING, BOUND),
    ),
)


# --- what is known, missing or believed -------------------------------------------------------------------------------


def known(name, model, make, reference=None, *, skipped=(), **options):
    missing = () if reference else (REFERENCE,)
    return Row(name, model, make, reference, skipped=(AFFINE_CHANGE, *missing, *skipped), **options)


def _believed(model, x, strength):
    """`model` with a prior at what all of x look like."""
    return jaxem.WithPrior(model, jaxem.weak_prior(model, x).params, strength)


LABELLED, LABELLED_ROWS = jaxem.gaussian_mixture(3).labelled(data.groups(90, 2), data.labels(90, 3))
NIW = jaxem.MixtureParams(2.0, jaxem.GaussianParams(0.5, 6.0))
ONE_CENTRE = jaxem.restrict(
    jaxem.gaussian_mixture(2, "diag"),
    jaxem.weak_prior(jaxem.gaussian_mixture(2, "diag"), data.groups(90, 2)).params,
    tie="components.mean",
    freeze={"components.cov": [[True], [False]]},
)

KNOWLEDGE = (
    known(
        "gaussian-missing",
        jaxem.gaussian_mixture(2, missing=True),
        lambda: data.with_missing(data.groups(90, 3)),
        seen_normals("full"),
        skipped=(BOUND,),
    ),
    known(
        "gaussian-missing-spherical",
        jaxem.gaussian_mixture(2, "spherical", missing=True),
        lambda: data.with_missing(data.groups(90, 3)),
        seen_normals("spherical"),
        skipped=(BOUND,),
    ),
    known(
        "gaussian-missing-diag",
        jaxem.gaussian_mixture(2, "diag", missing=True),
        lambda: data.with_missing(data.groups(90, 3)),
        seen_normals("diag"),
        skipped=(DRAWS,),
    ),
    known(
        "gaussian-noise",
        jaxem.gaussian_mixture(2, noise="full"),
        lambda: (data.with_missing(data.groups(90, 2, 2)), data.noise_covariances(90, 2)),
        seen_normals("full"),
        skipped=(BOUND, DRAWS),
    ),
    known(
        "gaussian-noise-diag",
        jaxem.gaussian_mixture(2, "diag", noise="diag"),
        lambda: (data.groups(90, 2, 2), data.noise_variances(90, 2)),
        seen_normals("diag"),
        skipped=(BOUND, DRAWS),
    ),
    known(
        "mixed-missing",
        jaxem.Mixture(jaxem.Product((jaxem.missing(jaxem.Bernoulli()), jaxem.missing(jaxem.Poisson()))), 2),
        lambda: (data.with_missing(data.bits()), data.numbers_with_missing(data.counts())),
        skipped=(DRAWS,),
    ),
    known(
        "hmm-missing",
        jaxem.gaussian_hmm(2, "diag", missing=True),
        data.sequences_with_missing,
        skipped=(DRAWS,),
    ),
    known(
        "censored",
        jaxem.exponential_mixture(2, censored=True),
        data.intervals,
        marginal(of_intervals),
        skipped=(BOUND, DRAWS),
    ),
    known(
        "grouped",
        jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2),
        data.grouped_counts,
        marginal(of_groups_of_counts),
        skipped=(DRAWS,),
    ),
    known("labelled", LABELLED, lambda: LABELLED_ROWS, of_labelled_normals, skipped=(NUMBERING, DRAWS)),
    known(
        "gaussian-prior",
        _believed(jaxem.gaussian_mixture(2), data.groups(90, 2), NIW),
        lambda: data.groups(90, 2),
        lambda params, x: logsumexp(gaussian_joint("full", params, x), axis=1),
    ),
    known(
        "poisson-prior",
        _believed(jaxem.poisson_mixture(2), data.counts(), 2.0),
        data.counts,
        marginal(lambda rate, x: poisson.logpmf(x, rate)),
        skipped=(DRAWS,),
    ),
    known(
        "gaussian-restricted",
        ONE_CENTRE,
        lambda: data.groups(90, 2),
        lambda params, x: logsumexp(gaussian_joint("diag", params, x), axis=1),
        skipped=(NUMBERING,),
    ),
)


ZOO = (
    gaussian("full", 2),
    gaussian("tied", 2),
    gaussian("diag", 2),
    gaussian("spherical", 2),
    gaussian("diag_tied", 2),
    gaussian("spherical_tied", 2),
    gaussian("full", 1, k=2),
    gaussian("full", 6, k=2),
    *FAMILIES,
    *OTHERS,
    *COMPOSITIONS,
    *CHAINS,
    *KNOWLEDGE,
)


#: Rows whose code other rows run too: a default run checks their laws on their own days only.
COVERED_BY_OTHERS = {
    *("gaussian-diag_tied-2d", "gaussian-spherical_tied-2d", "gaussian-with-hull-noise", "gaussian-hmm-ragged"),
    *("gaussian-missing-spherical", "gaussian-noise-diag", "poisson-exposure", "linear-regression-tied"),
    *("student-t-diag-tied", "student-t-spherical-4.0", "mixture-of-hmms"),
    *("poisson-hmm-stationary", "gaussian-tied-2d", "gaussian-spherical-2d", "gaussian-full-1d", "gaussian-full-6d"),
    *("log-normal", "geometric", "ppca", "student-t-hmm", "hmm-of-mixtures"),
}
assert {row.name for row in ZOO} >= COVERED_BY_OTHERS


def table() -> str:
    """The README's table of models: what the zoo checks, by the kind of data."""
    groups = {}
    for row in ZOO:
        group, call = row.shown
        if not group:
            continue
        groups.setdefault(group, {})[f"`{call}`"] = None
    order = (VECTORS, NUMBERS, CODES, GIVEN, SEQUENCES, FACTORS, COMPOSED, HARD)
    assert set(order) == set(groups)
    return "\n".join(["| | |", "| --- | --- |", *(f"| {group} | {', '.join(groups[group])} |" for group in order)])


if __name__ == "__main__":
    print(table())
