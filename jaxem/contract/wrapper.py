"""A model that is another one in all but a few methods."""

import dataclasses
import functools
from typing import Any

from jaxem.contract.model import Model

#: What a wrapper takes over; e_step and what follows from it (log_prob, m_step, posterior, predict) it computes anew.
_TAKEN_OVER = (
    *("init", "sufficient_statistics", "maximize", "constraints", "log_prior", "expected_log_joint"),
    *("latent_entropy", "assignment_entropy", "latent_divergence", "posterior_of", "sample", "sample_like"),
    *("permute", "degenerate", "empty"),
    *("embed", "rows", "n_observations", "check_finite", "check", "check_shapes", "check_resp", "check_fit"),
    *("conditional_mean", "tempered", "pseudo_statistics", "settle"),
    *("prepare", "shared_log_lik", "ill_conditioned"),
    *("units", "refine", "origin", "to_units", "params_to_units", "params_from_units", "log_volume"),
)


class Wrapper(Model):
    """Subclass it and write what is different; the wrapped model does the rest."""

    model: Any

    @property
    def start_kinds(self):
        return self.model.start_kinds

    @property
    def judged_by_statistics(self):
        return self.model.judged_by_statistics

    def in_units(self, units):
        return dataclasses.replace(self, model=self.model.in_units(units))  # type: ignore[type-var]

    def labelled(self, x, labels):
        model, x = self.model.labelled(x, labels)
        return dataclasses.replace(self, model=model), x  # type: ignore[type-var]

    def __getattr__(self, name):
        # Only for what the contract does not declare (n_components, ...).
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


class SameDensity(Wrapper):
    """A wrapper that changes how params are estimated, and nothing about the distribution they stand for."""

    @property
    def normalised(self):
        return self.model.normalised


def _take_over(cls, name):
    def method(self, *args, **kwargs):
        return getattr(self.model, name)(*args, **kwargs)

    setattr(cls, name, functools.wraps(getattr(Model, name))(method))


for _name in _TAKEN_OVER:
    _take_over(Wrapper, _name)

for _name in ("e_step", "hard_e_step", "posterior", "predict"):
    _take_over(SameDensity, _name)
