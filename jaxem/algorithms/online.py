"""Online EM: the statistics follow the data batch by batch, and every batch moves the params."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.pytree import pytree_class, static
from jaxem.inputs.arrays import check_number


@pytree_class
class OnlineEM:
    """Stepwise EM (Cappé and Moulines 2009, equation 6), for `fit_stream` and `fit_partial`.

    After batch t the mean statistics per row are s <- (1 - rho_t) s + rho_t s_batch with rho_t = (t + delay)^-exponent,
    and the params are their M-step. exponent: above 0.5 and at most 1; near 0.5 it forgets a bad start sooner, near 1
    it is steadier. batch_size: rows of a batch. averaged: the params of a pass are those of the mean of s over it
    (Polyak and Ruppert), which forgives an exponent that is not the best.

    Batches should look alike: data that are sorted have to be shuffled first. Where EM is slow (a poor start, much
    overlap) this is no faster, for its steps get shorter: begin at the best of many fits of a few thousand rows. The
    last digits are for EM, which can go on from its params.
    """

    batch_size: int = static(default=1024)
    exponent: Any = 0.6
    delay: Any = 2.0
    averaged: bool = static(default=True)

    def __post_init__(self) -> None:
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("exponent", self.exponent, 0.5, exclusive=True, maximum=1)
        check_number("delay", self.delay, 0)

    def rate(self, step: Any) -> Any:
        """rho_t of batch `step`, counted from 0; the first batch replaces whatever was there."""
        later = (step + self.delay) ** -jnp.asarray(self.exponent, jnp.result_type(float))
        return jnp.where(step == 0, 1.0, later)

    def follow(self, old: Any, batch: bool, step: Any) -> Any:
        """Mean statistics after a batch whose own are `batch`."""
        rate = self.rate(step)
        return jax.tree.map(lambda a, b: (1 - rate).astype(a.dtype) * a + rate.astype(a.dtype) * b, old, batch)
