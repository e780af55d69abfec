"""jaxem: Expectation-Maximization in JAX. One contract, one compiled loop, many starts in one program."""

from jaxem import datasets
from jaxem.algorithms.anderson import Anderson
from jaxem.algorithms.em import EM
from jaxem.algorithms.gradient import Gradient
from jaxem.algorithms.online import OnlineEM
from jaxem.algorithms.squarem import SQUAREM
from jaxem.alignment import align
from jaxem.annealing import anneal
from jaxem.bound import elbo, kl_gap, q_function
from jaxem.comparison import compare_algorithms
from jaxem.constraints import constrain, n_free_params, unconstrain
from jaxem.devices import shard_rows
from jaxem.families.bernoulli import Bernoulli, BernoulliParams
from jaxem.families.categorical import Categorical, CategoricalParams
from jaxem.families.exponential import Exponential, ExponentialParams
from jaxem.families.factor_analysis import FactorAnalyzer, FactorParams
from jaxem.families.gamma import Gamma, GammaParams
from jaxem.families.gaussian import Gaussian, GaussianParams
from jaxem.families.geometric import Geometric, GeometricParams
from jaxem.families.hull import HullParams, UniformHull
from jaxem.families.log_normal import LogNormal, LogNormalParams
from jaxem.families.log_partition import LogPartitionFamily, NaturalParams
from jaxem.families.multinomial import Multinomial, MultinomialParams
from jaxem.families.negative_binomial import NegativeBinomial, NegativeBinomialParams
from jaxem.families.one_of import Held, OneOf
from jaxem.families.poisson import Poisson, PoissonParams
from jaxem.families.product import Product
from jaxem.families.regression import (
    LinearRegression,
    LinearRegressionParams,
    LogisticRegression,
    PoissonRegression,
    RegressionParams,
)
from jaxem.families.student_t import StudentT, StudentTParams
from jaxem.families.uniform import Uniform, UniformParams
from jaxem.families.von_mises_fisher import VonMisesFisher, VonMisesFisherParams
from jaxem.fitting import fit, raise_if_failed
from jaxem.knowledge.censored import CensoredExponential
from jaxem.knowledge.incomplete_gaussian import IncompleteGaussian
from jaxem.knowledge.missing import Missing, missing
from jaxem.knowledge.prior import WithPrior, weak_prior
from jaxem.knowledge.repeated import Repeated, group_rows
from jaxem.knowledge.restricted import Restricted, restrict
from jaxem.latent.gated import GatedMixture, GatedParams
from jaxem.latent.hard import Hard
from jaxem.latent.hmm import HMM, HMMParams
from jaxem.latent.mixture import Mixture, MixtureParams
from jaxem.latent.nested import Nested
from jaxem.latent.sequences import pad_sequences
from jaxem.latent.state_space import StateSpace, StateSpaceParams
from jaxem.loop import Result, Status
from jaxem.many import pad_datasets
from jaxem.model import EStep, Model, model_class, static
from jaxem.online import OnlineState, fit_partial
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
from jaxem.restarts import Restarts, Screening, fit_restarts, optima, subsampled_starts
from jaxem.selection import aic, bic, icl, select
from jaxem.serialization import load, save
from jaxem.sources import SourceError
from jaxem.steps import from_steps
from jaxem.streaming import fit_stream

__version__ = "0.1.0"
