"""Models and fits in files: npz arrays with a JSON header, which are checked when they are read.

A file is a `container`, which cannot run code. Classes are stored by name; `load` looks the names
up among the classes of jaxem and those that the caller gives. Functions and pickled objects are
refused in both directions.
"""

import dataclasses
import os
import types as _types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.model import Model
from jaxem.engine import container
from jaxem.numerics.tracing import is_traced


def save(path: str | os.PathLike, model: Model, result_or_params: Any, *, types: Sequence[type] = ()) -> None:
    """Write a model and its params, or a whole `Result` or `Restarts`, to a file (npz).

    Every array keeps its bits and its dtype. The file is written beside `path`, synced to disk and
    then renamed, so that it appears complete or not at all.

    Args:
        path: the path of the file.
        model: the model.
        result_or_params: params of the model, or a `Result` or `Restarts` of it.
        types: classes of your own (NamedTuples or dataclasses) that the model or the params use.

    Raises:
        ValueError: a file cannot hold a value, and the message says where it is: a function (so a
            model of `from_steps` cannot be saved), a class that is neither jaxem's nor in `types`,
            a traced value, or a random key. Also if the params do not belong to the model.

    Examples:
        >>> import jax, jaxem, pathlib, tempfile
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxem.save(pathlib.Path(folder) / "fit.npz", model, result)
        ...     model, again = jaxem.load(pathlib.Path(folder) / "fit.npz")
        >>> again.message == result.message
        True
        >>> bool((again.params.components.cov == result.params.components.cov).all())
        True
    """
    names = {cls: name for name, cls in _registry(types).items()}
    arrays = []
    tree = {
        "model": _encode(model, "model", names, arrays),
        "result_or_params": _encode(result_or_params, "result_or_params", names, arrays),
    }
    _check_belongs(model, result_or_params)
    container.write(path, tree, arrays)


def load(path: str | os.PathLike, *, types: Sequence[type] = (), dtype: Any = None) -> Any:
    """Read a file that `save` wrote.

    Nothing in a file is executed. The only calls are those of the constructors of the classes that
    it names.

    Args:
        path: the path of the file.
        types: classes of your own that the file may name.
        dtype: a dtype to which floating-point arrays are rounded, for instance to use a float64 fit
            in float32. By default nothing is rounded.

    Returns:
        (model, result_or_params), with the bits that were saved.

    Raises:
        ValueError: the file is damaged, altered or of an unknown version; or it names a class that
            is neither jaxem's nor in `types`; or it holds float64 arrays while the 64-bit types of
            JAX are off. The message names the file and the reason.

    Examples:
        >>> import jaxem, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "fit.npz"
        ...     _ = path.write_bytes(b"something else")
        ...     try:
        ...         jaxem.load(path)
        ...     except ValueError as error:
        ...         print(str(error).replace(str(path), "fit.npz"))
        fit.npz: not an npz file (File is not a zip file)
    """
    registry = _registry(types)
    data = Path(path).read_bytes()
    try:
        tree, arrays = container.read(data)
        if tree.keys() != {"model", "result_or_params"}:
            raise ValueError(f"its header holds {sorted(tree)}; expected model and result_or_params")
        decoder = _Decoder(registry, arrays, None if dtype is None else np.dtype(dtype))
        model, value = (decoder.decode(tree[key], key) for key in ("model", "result_or_params"))
        decoder.check_all_used()
        _check_belongs(model, value)
    except container.DAMAGE as error:
        raise ValueError(f"{os.fspath(path)}: {str(error) or type(error).__name__}") from error
    return model, value


# --- which classes a file may name ----------------------------------------------------------------


def _library() -> Any:
    import jaxem

    return jaxem


def _registry(types):
    """name -> class, for the NamedTuples and dataclasses of `jaxem`, then those of the caller."""
    library = _library()
    packages = [module for module in (library.families, library.latent) for module in vars(module).values()]
    registry = {}
    for module in [
        library,
        library.contract.steps,
        *(module for module in packages if isinstance(module, _types.ModuleType)),
    ]:
        for cls in vars(module).values():
            if _is_record(cls) and cls.__module__.startswith("jaxem.") and not cls.__name__.startswith("_"):
                registry[cls.__name__] = cls
    for cls in types:
        if not _is_record(cls):
            raise ValueError(f"types: expected NamedTuple or dataclass classes; got {cls!r}")
        if registry.setdefault(cls.__name__, cls) is not cls:
            raise ValueError(f"types: the name {cls.__name__!r} is taken by {registry[cls.__name__]!r}")
    return registry


def _is_record(cls):
    return isinstance(cls, type) and (dataclasses.is_dataclass(cls) or _is_named_tuple(cls))


def _is_named_tuple(cls):
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _fields(cls):
    """Name of a field -> whether the field has a default."""
    if _is_named_tuple(cls):
        return {name: name in cls._field_defaults for name in cls._fields}
    missing = dataclasses.MISSING
    fields = (field for field in dataclasses.fields(cls) if field.init)
    return {f.name: f.default is not missing or f.default_factory is not missing for f in fields}


def _check_belongs(model, value):
    """Raise ValueError unless the params (of a Result or Restarts) have the model's structure."""
    if not isinstance(model, Model):
        raise ValueError(f"model: expected a jaxem.Model; got {type(model).__name__}")
    hash(jax.tree.structure(model))  # The structure is a key of the compilation cache.
    result = getattr(value, "best", value)
    params = getattr(result, "params", result)
    try:
        want = jax.tree.structure(model.constraints(), is_leaf=lambda node: hasattr(node, "to_free"))
    except NotImplementedError:
        return
    if jax.tree.structure(params) != want:
        raise ValueError(f"result_or_params: expected params of structure {want}; got {jax.tree.structure(params)}")


# --- trees to JSON and back -----------------------------------------------------------------------


def _encode(node, where, names, arrays):
    """The JSON form of `node`; its arrays are appended to `arrays`."""
    if node is None or type(node) in (bool, int, str):
        return node
    if type(node) is float:
        return {"float": node.hex()}
    if isinstance(node, (jax.Array, np.ndarray, np.generic)):
        return _encode_array(node, where, arrays)
    if type(node) in (tuple, list):
        items = [_encode(item, f"{where}[{i}]", names, arrays) for i, item in enumerate(node)]
        return {type(node).__name__: items}
    if type(node) is dict and all(type(key) is str for key in node):
        return {"dict": {key: _encode(item, f"{where}[{key!r}]", names, arrays) for key, item in node.items()}}
    if type(node) in names:
        values = {name: getattr(node, name) for name in _fields(type(node))}
        fields = {name: _encode(value, f"{where}.{name}", names, arrays) for name, value in values.items()}
        return {"class": names[type(node)], "fields": fields}
    if callable(node) and not _is_record(type(node)):
        raise ValueError(f"{where}: a function cannot be written to a file; got {node!r}")
    raise ValueError(
        f"{where}: expected arrays, numbers, strings, None, tuples, lists, dicts with string keys, or a class of "
        f"jaxem or of types=[...]; got {type(node).__name__}"
    )


def _encode_array(array, where, arrays):
    if is_traced(array):
        raise ValueError(f"{where}: a traced value has no numbers to write; call save outside jit, vmap and grad")
    if str(array.dtype) not in container.DTYPES:
        raise ValueError(f"{where}: expected an array of {', '.join(container.DTYPES)}; got {array.dtype}")
    kind = "jax" if isinstance(array, jax.Array) else "numpy"
    array = np.asarray(array)
    arrays.append(array.astype(array.dtype.newbyteorder("<")).copy(order="C"))
    return {kind: len(arrays) - 1}


class _Decoder:
    """Builds a tree from its JSON form and its arrays, each of which is used exactly once."""

    def __init__(self, registry: Any, arrays: Any, dtype: Any) -> None:
        self.registry, self.arrays, self.dtype, self.used = registry, arrays, dtype, set()

    def decode(self, node: Any, where: str) -> Any:
        if node is None or isinstance(node, (bool, int, str)):
            return node
        if not isinstance(node, dict):
            raise ValueError(f"header: {where} is not a known kind of value")
        if node.keys() == {"class", "fields"}:
            return self.build(node["class"], node["fields"], where)
        kind, content = next(iter(node.items())) if len(node) == 1 else (None, None)
        if kind == "float" and isinstance(content, str):
            return float.fromhex(content)
        if kind in ("jax", "numpy"):
            return self.array(kind, content, where)
        if kind in ("tuple", "list") and isinstance(content, list):
            items = [self.decode(item, f"{where}[{i}]") for i, item in enumerate(content)]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict" and isinstance(content, dict):
            return {key: self.decode(item, f"{where}[{key!r}]") for key, item in content.items()}
        raise ValueError(f"header: {where} is not a known kind of value")

    def build(self, name: str, fields: Any, where: str) -> Any:
        if not isinstance(name, str) or name not in self.registry:
            raise ValueError(
                f"unknown type {name!r} at {where}; if it is a class of yours, trust it by load(path, types=[...])"
            )
        if not isinstance(fields, dict):
            raise ValueError(f"header: the fields of {where} are not a JSON object")
        known = _fields(self.registry[name])
        required = {field for field, has_default in known.items() if not has_default}
        if not required <= fields.keys() <= known.keys():
            raise ValueError(f"{where}: {name} has the fields {list(known)}; the file holds {list(fields)}")
        values = {field: self.decode(value, f"{where}.{field}") for field, value in fields.items()}
        try:
            return self.registry[name](**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name} refuses its fields ({error})") from error

    def array(self, kind: Any, index: Any, where: str) -> Any:
        if type(index) is not int or not 0 <= index < len(self.arrays) or index in self.used:
            raise ValueError(f"header: {where} refers to array {index!r}, which is not there or already taken")
        self.used.add(index)
        array = self.arrays[index]
        if self.dtype is not None:
            array = _rounded(array, self.dtype)
        if kind == "numpy":
            return array
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            raise ValueError(
                f"{where} is {array.dtype}, which JAX would cut to 32 bits here; turn 64-bit types on "
                '(jax.config.update("jax_enable_x64", True)), or round on purpose: load(path, dtype="float32")'
            )
        return jnp.asarray(array)

    def check_all_used(self) -> None:
        if len(self.used) < len(self.arrays):
            raise ValueError(f"header: {len(self.arrays) - len(self.used)} arrays belong to nothing")


def _rounded(array, dtype):
    """Floats rounded to `dtype`; integers in 32 bits where they fit, if `dtype` is not wider."""
    if array.dtype.kind == "f":
        return array.astype(dtype)
    if array.dtype.kind not in "iu":
        return array
    narrow = np.dtype(f"{array.dtype.kind}4")
    fits = array.dtype.itemsize == 8 and dtype.itemsize <= 4 and (array.astype(narrow) == array).all()
    return array.astype(narrow) if fits else array
