"""Online EM: every batch of rows updates the statistics and the params."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.pytree import pytree_class, static
from jaxem.inputs.arrays import check_number


@pytree_class
class OnlineEM:
    """Stepwise EM (Cappé and Moulines, 2009, equation 6), for `fit_stream` and `fit_partial`.

    After batch t the mean statistics per unit of weight are s <- (1 - rho_t) s + rho_t s_batch,
    with rho_t = (t + delay)^-exponent, and the params are their M-step.

    Batches should be similar to one another: sorted data have to be shuffled first. Where EM is
    slow (a poor start, components that overlap much) online EM is not faster, because its steps get
    shorter; start it at the best of many fits of a few thousand rows. For the last digits of the
    params, go on from them with EM.

    Args:
        batch_size: the number of rows in a batch.
        exponent: above 0.5 and at most 1. Near 0.5 a bad start is forgotten sooner; near 1 the
            params vary less.
        delay: at least 0.
        averaged: whether the params after a pass are the M-step of the mean of s over the pass
            (Polyak and Ruppert). The choice of the exponent then matters less.
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
        """rho_t of batch `step`, counted from 0; the first batch has rate 1.

        Args:
            step: the number of batches before this one.
        """
        later = (step + self.delay) ** -jnp.asarray(self.exponent, jnp.result_type(float))
        return jnp.where(step == 0, 1.0, later)

    def follow(self, old: Any, batch: Any, step: Any) -> Any:
        """The mean statistics after a batch.

        Args:
            old: the mean statistics before the batch.
            batch: the mean statistics of the batch.
            step: the number of batches before this one.
        """
        rate = self.rate(step)
        return jax.tree.map(lambda a, b: (1 - rate).astype(a.dtype) * a + rate.astype(a.dtype) * b, old, batch)
