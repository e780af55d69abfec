"""The arguments of a model's methods are made into arrays and checked before anything is compiled.

Values that are traced (inside jit, vmap, grad) are not known yet, so only their shapes are checked.
"""

from typing import Any

import jax
import numpy as np

from jaxem.contract.constraints import violations
from jaxem.contract.pytree import is_pytree_class
from jaxem.inputs import arrays
from jaxem.numerics.tracing import is_traced


def check_arguments(model: Any, arguments: dict[str, Any], method: str) -> dict[str, Any]:
    """The arguments of a method as arrays, checked.

    Args:
        model: the model whose method is called.
        arguments: values by name. Prepared data (see `is_prepared`) are not changed.
        method: name of the method.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    x = arguments.get("x")
    arguments = dict(arguments)
    if isinstance(arguments.get("kind"), str):
        arguments["kind"] = start_kind(model, arguments["kind"])
    if is_traced(model, arguments):
        if "x" in arguments and not is_prepared(x):
            arguments["x"] = model.rows(x)
        if isinstance(x, jax.Array):
            _as_said_here(model.check, x, arguments.get("params"))
            if method == "init":
                model.check_fit(x, arguments.get("weights"), x.dtype)
        return arguments
    if "key" in arguments:
        arrays.check_key(arguments["key"])
    if "n" in arguments:
        arrays.check_number("n", arguments["n"], 1, whole=True)
        arguments["n"] = int(arguments["n"])
    if "kind" in arguments:
        arguments["kind"] = start_kind(model, arguments["kind"])
    if "params" in arguments:
        arguments["params"] = as_params(model, arguments["params"])
    if "x" in arguments and not is_prepared(x):
        _check_rows(model, arguments, method)
    if "future" in arguments:
        arguments["future"] = model.rows(arguments["future"])
    if "params" in arguments:
        check_values(model, arguments["params"])
    return arguments


def check_model(model: Any) -> None:
    """Raise ValueError where `model` is not an instance of a decorated model class.

    Common mistakes have messages of their own: a class in place of an instance, a class without the
    decorator, and a family.
    """
    name = type(model).__name__
    if isinstance(model, type) or not (hasattr(model, "e_step") and hasattr(model, "maximize")):
        raise ValueError(f"model: expected a model such as jaxem.gaussian_mixture(2); got {model!r}")
    if not is_pytree_class(type(model)):
        raise ValueError(
            f"model: expected a decorated class; got {name}, which needs @jaxem.model_class above `class {name}`"
        )
    if not hasattr(model, "m_step"):
        raise ValueError(f"model: expected a model; got the family {name}; write jaxem.Mixture({name}(), k)")


def is_prepared(x: Any) -> bool:
    """Whether x, or a part of it, is a NamedTuple, which only the library's own code makes."""
    return isinstance(x, tuple) and (hasattr(x, "_fields") or any(is_prepared(part) for part in x))


def _check_rows(model, arguments, method):
    x = arguments["x"] = model.rows(arguments["x"])
    model.check_finite(arrays.on_host(x))
    _as_said_here(model.check, x, arguments.get("params"))
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x))))
    weights = arguments.get("weights")
    if weights is not None:
        weights = arguments["weights"] = arrays.as_weights(weights, arrays.n_rows(x), dtype)
    if method == "init":
        model.check_fit(arrays.on_host(x), weights, dtype)
    if "resp" in arguments and hasattr(model, "check_resp"):
        model.check_resp(arguments["resp"], x)


def _as_said_here(check, x, params):
    """Call check(x, params), and say "params" in its error where it says "start".

    The checks of a model are worded for calls of `fit`, in which params are the start.
    """
    try:
        check(x, params)
    except ValueError as error:
        message = str(error)
        raise ValueError("params" + message[5:] if message.startswith("start") else message) from None


def start_kind(model: Any, kind: Any) -> Any:
    """The index among `model.start_kinds` of a kind of start, given by index or by name."""
    known = ", ".join(repr(name) for name in model.start_kinds)
    if isinstance(kind, str):
        if kind not in model.start_kinds:
            raise ValueError(f"kind: expected one of {known}; got {kind!r}")
        return model.start_kinds.index(kind)
    if kind is not None:
        arrays.check_number("kind", kind, 0, whole=True, maximum=len(model.start_kinds) - 1)
    return kind


def as_params(model: Any, params: Any, name: str = "params") -> Any:
    """Params as arrays; ValueError where they do not have the structure of the model's own."""
    return arrays.as_start(model, params, None, name) if model.additive else params


def check_values(model: Any, params: Any, name: str = "params") -> None:
    """Raise ValueError, naming the leaf, where a leaf of params violates its constraint."""
    for path, problem in violations(model, params) if model.additive else []:
        raise ValueError(f"{name}{path}: {problem}")


def check_batch(model: Any, params: Any, name: str = "start") -> None:
    """Call `check_values` for every entry of params with a leading axis.

    Entries that are not finite are skipped, because their fits report it.
    """
    for lane in range(n_starts(params, name)):
        one = jax.tree.map(lambda leaf, at=lane: leaf[at], params)
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one)):
            check_values(model, one, f"{name}[{lane}]")


def n_starts(arrays: Any, name: str) -> int:
    """The size of the leading axis that all leaves share; ValueError where they share none."""
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)}
    if len(sizes) > 1 or 0 in sizes:
        shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
        raise ValueError(
            f"{name}: expected leaves with one leading axis, one entry for each start; got shapes {shapes}"
        )
    return sizes.pop()
