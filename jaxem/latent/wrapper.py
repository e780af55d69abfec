"""A model that is another one in all but a few methods."""

import functools
from typing import Any

from jaxem.model import Model

#: What a wrapper takes over; e_step and what follows from it (log_prob, m_step, posterior, predict) it computes anew.
_TAKEN_OVER = (
    *("init", "sufficient_statistics", "maximize", "constraints", "log_prior", "expected_log_joint"),
    *("latent_entropy", "assignment_entropy", "latent_divergence", "posterior_of", "sample", "sample_like"),
    *("permute", "degenerate", "empty"),
    *("embed", "rows", "n_observations", "check", "check_shapes", "check_resp", "check_fit"),
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

    def __getattr__(self, name):
        # Only for what the contract does not declare (n_components, ...).
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


def _take_over(name):
    def method(self, *args, **kwargs):
        return getattr(self.model, name)(*args, **kwargs)

    setattr(Wrapper, name, functools.wraps(getattr(Model, name))(method))


for _name in _TAKEN_OVER:
    _take_over(_name)
