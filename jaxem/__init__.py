"""jaxem: Expectation-Maximization in JAX.

One contract, one compiled loop, and many starts in one program.
"""

from jaxem import constraints, datasets
from jaxem.algorithms.anderson import Anderson
from jaxem.algorithms.em import EM
from jaxem.algorithms.gradient import Gradient
from jaxem.algorithms.online import OnlineEM
from jaxem.algorithms.squarem import SQUAREM
from jaxem.contract.constraints import constrain, n_free_params, unconstrain
from jaxem.contract.family import Family
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.pytree import static
from jaxem.contract.steps import from_steps
from jaxem.engine.result import Result, Status
from jaxem.families.bernoulli import Bernoulli, BernoulliParams
from jaxem.families.categorical import Categorical, CategoricalParams
from jaxem.families.exponential import Exponential, ExponentialParams
from jaxem.families.exponential_family import ExponentialFamily
from jaxem.families.factor_analysis import FactorAnalyzer, FactorParams
from jaxem.families.gamma import Gamma, GammaParams
from jaxem.families.gaussian import Gaussian, GaussianParams
from jaxem.families.geometric import Geometric, GeometricParams
from jaxem.families.hull import HullParams, UniformHull
from jaxem.families.linear_regression import LinearRegression, LinearRegressionParams
from jaxem.families.log_normal import LogNormal, LogNormalParams
from jaxem.families.log_partition import LogPartitionFamily, NaturalParams
from jaxem.families.logistic_regression import LogisticRegression
from jaxem.families.multinomial import Multinomial, MultinomialParams
from jaxem.families.negative_binomial import NegativeBinomial, NegativeBinomialParams
from jaxem.families.one_of import Held, OneOf
from jaxem.families.poisson import Poisson, PoissonParams
from jaxem.families.poisson_regression import PoissonRegression
from jaxem.families.product import Product
from jaxem.families.regression import RegressionParams
from jaxem.families.student_t import StudentT, StudentTParams
from jaxem.families.uniform import Uniform, UniformParams
from jaxem.families.von_mises_fisher import VonMisesFisher, VonMisesFisherParams
from jaxem.fitting.annealing import anneal
from jaxem.fitting.data import shard_rows
from jaxem.fitting.fit import fit, raise_if_failed
from jaxem.fitting.online import OnlineState, fit_partial
from jaxem.fitting.restarts import Restarts, Screening, fit_restarts, optima, subsampled_starts
from jaxem.fitting.stream import fit_stream
from jaxem.inference.alignment import align
from jaxem.inference.bound import elbo, kl_gap, q_function
from jaxem.inference.comparison import compare_algorithms
from jaxem.inference.selection import aic, bic, icl, select
from jaxem.inference.serialization import load, save
from jaxem.inputs.pad_datasets import pad_datasets
from jaxem.inputs.sequences import pad_sequences
from jaxem.inputs.sources import SourceError
from jaxem.latent.gated import GatedMixture, GatedParams
from jaxem.latent.hard import Hard
from jaxem.latent.hmm import HMM, HMMParams
from jaxem.latent.mixture import Mixture, MixtureParams
from jaxem.latent.nested import Nested
from jaxem.latent.state_space import StateSpace, StateSpaceParams
from jaxem.observed.censored import CensoredExponential
from jaxem.observed.incomplete_gaussian import IncompleteGaussian
from jaxem.observed.missing import Missing, missing
from jaxem.observed.repeated import Repeated, group_rows
from jaxem.presets import (
    bernoulli_mixture,
    categorical_hmm,
    categorical_mixture,
    exponential_mixture,
    factor_analysis,
    gamma_mixture,
    gaussian_hmm,
    gaussian_mixture,
    gaussian_mixture_with_noise,
    geometric_mixture,
    kmeans,
    linear_regression_mixture,
    log_normal_mixture,
    logistic_regression_mixture,
    multinomial_mixture,
    negative_binomial_mixture,
    poisson_hmm,
    poisson_mixture,
    poisson_regression_mixture,
    ppca,
    student_t_mixture,
    von_mises_fisher_mixture,
    zero_inflated_poisson,
)
from jaxem.priors.conjugate import WithPrior, weak_prior
from jaxem.priors.restricted import Restricted, restrict

__all__ = [
    "EM",
    "HMM",
    "SQUAREM",
    "Anderson",
    "Bernoulli",
    "BernoulliParams",
    "Categorical",
    "CategoricalParams",
    "CensoredExponential",
    "EStep",
    "Exponential",
    "ExponentialFamily",
    "ExponentialParams",
    "FactorAnalyzer",
    "FactorParams",
    "Family",
    "Gamma",
    "GammaParams",
    "GatedMixture",
    "GatedParams",
    "Gaussian",
    "GaussianParams",
    "Geometric",
    "GeometricParams",
    "Gradient",
    "HMMParams",
    "Hard",
    "Held",
    "HullParams",
    "IncompleteGaussian",
    "LinearRegression",
    "LinearRegressionParams",
    "LogNormal",
    "LogNormalParams",
    "LogPartitionFamily",
    "LogisticRegression",
    "Missing",
    "Mixture",
    "MixtureParams",
    "Model",
    "Multinomial",
    "MultinomialParams",
    "NaturalParams",
    "NegativeBinomial",
    "NegativeBinomialParams",
    "Nested",
    "OneOf",
    "OnlineEM",
    "OnlineState",
    "Poisson",
    "PoissonParams",
    "PoissonRegression",
    "Product",
    "RegressionParams",
    "Repeated",
    "Restarts",
    "Restricted",
    "Result",
    "Screening",
    "SourceError",
    "StateSpace",
    "StateSpaceParams",
    "Status",
    "StudentT",
    "StudentTParams",
    "Uniform",
    "UniformHull",
    "UniformParams",
    "VonMisesFisher",
    "VonMisesFisherParams",
    "WithPrior",
    "aic",
    "align",
    "anneal",
    "bernoulli_mixture",
    "bic",
    "categorical_hmm",
    "categorical_mixture",
    "compare_algorithms",
    "constrain",
    "constraints",
    "datasets",
    "elbo",
    "exponential_mixture",
    "factor_analysis",
    "fit",
    "fit_partial",
    "fit_restarts",
    "fit_stream",
    "from_steps",
    "gamma_mixture",
    "gaussian_hmm",
    "gaussian_mixture",
    "gaussian_mixture_with_noise",
    "geometric_mixture",
    "group_rows",
    "icl",
    "kl_gap",
    "kmeans",
    "linear_regression_mixture",
    "load",
    "log_normal_mixture",
    "logistic_regression_mixture",
    "missing",
    "model_class",
    "multinomial_mixture",
    "n_free_params",
    "negative_binomial_mixture",
    "optima",
    "pad_datasets",
    "pad_sequences",
    "poisson_hmm",
    "poisson_mixture",
    "poisson_regression_mixture",
    "ppca",
    "q_function",
    "raise_if_failed",
    "restrict",
    "save",
    "select",
    "shard_rows",
    "static",
    "student_t_mixture",
    "subsampled_starts",
    "unconstrain",
    "von_mises_fisher_mixture",
    "weak_prior",
    "zero_inflated_poisson",
]

__version__ = "0.1.0"
