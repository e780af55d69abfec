"""What a scan over chunks of rows would compute again for every chunk is computed once.

An E-step works natural parameters, factors of covariances and other constants out of the params. A
model does not have to declare them: the traced program shows which results depend on the params
alone.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import eval_jaxpr
from jax.extend.core import Literal

#: A result is computed once and kept if its size is at most this many times the size of the shared
#: values. Factors of params are as small as that; what is as long as a chunk is not, and costs more
#: to read than to compute.
GROWTH = 8


def hoisted(
    function: Callable[[Any, Any], Any], shared: Any, example: Any
) -> tuple[list[Any], Callable[[list[Any], Any], Any]]:
    """Split a function into what depends on `shared` alone and the rest.

    Args:
        function: (shared, x) -> a pytree of arrays. Other values that it closes over count as
            shared.
        shared: a pytree that is the same for every x.
        example: an x, for its shapes and dtypes.

    Returns:
        (kept, rest) with rest(kept, x) = function(shared, x): `kept` holds all results that depend
        on `shared` alone.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(shared, example)
    jaxpr, leaves = closed.jaxpr, jax.tree.leaves(shared)
    own, structure = jaxpr.invars[: len(leaves)], jax.tree.structure(shape)
    known = {*jaxpr.constvars, *own}
    most = GROWTH * sum(var.aval.size for var in own)
    before, after = [], []
    for eqn in jaxpr.eqns:
        inputs = [var for var in eqn.invars if not isinstance(var, Literal)]
        small = sum(var.aval.size for var in eqn.outvars) <= most
        if inputs and small and not eqn.effects and all(var in known for var in inputs):
            before.append(eqn)
            known.update(eqn.outvars)
        else:
            after.append(eqn)
    used = [var for eqn in after for var in eqn.invars] + jaxpr.outvars
    needed = list(dict.fromkeys(var for var in used if not isinstance(var, Literal) and var in known))
    first = jaxpr.replace(eqns=before, outvars=needed)
    second = jaxpr.replace(eqns=after, constvars=[], invars=[*needed, *jaxpr.invars[len(leaves) :]])
    kept = eval_jaxpr(first, closed.consts, *leaves, *jax.tree.leaves(example))

    def rest(kept: list[Any], x: Any) -> Any:
        return jax.tree.unflatten(structure, eval_jaxpr(second, [], *kept, *jax.tree.leaves(x)))

    return kept, rest
