"""What a chunk of rows does not change is computed once for all chunks.

Natural parameters, factors of covariances, an emission's constants: an E-step works them out of the params, and in a
scan over chunks it would do so for every chunk. No model has to say what they are: it shows in the traced program.
"""

import jax
from jax.core import eval_jaxpr
from jax.extend.core import Literal

#: A result is kept for all chunks if it holds at most so many times the numbers that the shared values hold: factors of
#: params do, but not what is as long as a chunk, which costs more to read than to make.
GROWTH = 8


def hoisted(function, shared, example):
    """(kept, rest) with rest(kept, x) = function(shared, x): all that depends on `shared` alone is in `kept`.

    example: an x. Other values that the function closes over count as shared.
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

    def rest(kept, x):
        return jax.tree.unflatten(structure, eval_jaxpr(second, [], *kept, *jax.tree.leaves(x)))

    return kept, rest
