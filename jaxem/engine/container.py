"""Files of arrays with a JSON header, which cannot run code.

A file is an uncompressed npz. Its entry `header` is UTF-8 JSON. It holds the versions of the format
and of the library, a tree of plain values, the dtype and shape of every array, and a SHA-256
checksum of all this. A file is written whole or not at all, and checked when it is read.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import struct
import tokenize
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "jaxem"
FORMAT_VERSION = 1
HEADER_KEYS = {"format", "format_version", "jaxem_version", "tree", "arrays", "checksum"}

#: The dtypes that every reader of npz understands. Others, such as bfloat16 and random keys, are
#: refused.
DTYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
DTYPES += ("float16", "float32", "float64")

#: The errors that malformed bytes raise in the readers of zip, npy and JSON, and that wrong fields
#: raise in the classes that get them.
DAMAGE = (ValueError, TypeError, AttributeError, EOFError, KeyError, RuntimeError, OverflowError, MemoryError)
DAMAGE += (SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile)


def checksum(header: dict[str, Any], arrays: list[np.ndarray]) -> str:
    """The SHA-256 checksum, in hexadecimal, of a header (without its checksum) and arrays."""
    content = {key: value for key, value in header.items() if key != "checksum"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(path: str | os.PathLike, tree: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a file, which appears complete or not at all.

    Args:
        path: the path of the file.
        tree: a tree of plain JSON values.
        arrays: the arrays, of `DTYPES`.

    Raises:
        OSError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "jaxem_version": _version(),
        "tree": tree,
        "arrays": [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays],
    }
    header["checksum"] = checksum(header, arrays)
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    _write_atomically(Path(path), header=text, **{f"array_{i}": array for i, array in enumerate(arrays)})


def _version() -> str:
    """The version of jaxem as it is installed."""
    try:
        return version("jaxem")
    except PackageNotFoundError:
        return "unknown"


def _write_atomically(path, **entries):
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **entries)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The folder is synced too, so that the rename reaches the disk. Some systems cannot do this.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read and check the bytes of a file.

    Args:
        data: the content of the file.

    Returns:
        (tree, arrays), as `write` got them.

    Raises:
        ValueError: these are not the bytes of a whole, unaltered file. Some damage raises another
            of the errors in `DAMAGE`.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"not an npz file ({error})") from error
    entries = archive.infolist()
    # Entries that are not compressed cannot unpack to more bytes than the file has.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("not written by jaxem.save: its entries are compressed")
    if sum(entry.file_size for entry in entries) > len(data):
        raise ValueError("damaged: its entries are larger than the file")
    names = [entry.filename for entry in entries]
    if "header.npy" not in names:
        raise ValueError("not written by jaxem.save: it has no header")
    header = _read_header(archive.read("header.npy"))
    expected = ["header.npy", *(f"array_{i}.npy" for i in range(len(header["arrays"])))]
    if sorted(names) != sorted(expected):
        extra, missing = sorted(set(names) - set(expected)), sorted(set(expected) - set(names))
        raise ValueError(f"damaged: entries missing {missing}, unexpected {extra} (or twice the same)")
    arrays = [
        _read_npy(archive.read(name), name, **spec) for name, spec in zip(expected[1:], header["arrays"], strict=True)
    ]
    if checksum(header, arrays) != header["checksum"]:
        raise ValueError("damaged: its content does not match its checksum")
    return header["tree"], [array.astype(array.dtype.newbyteorder("=")) for array in arrays]


def _read_header(raw):
    text = _read_npy(raw, "header.npy", "|u1").tobytes()
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("its header is not one of jaxem")
    if header.get("format_version") != FORMAT_VERSION:
        version, library = header.get("format_version"), header.get("jaxem_version")
        raise ValueError(
            f"format version {version!r}, written by jaxem {library!r}; this is jaxem {_version()}, "
            f"which reads version {FORMAT_VERSION}"
        )
    tree, arrays = header.get("tree"), header.get("arrays")
    if header.keys() != HEADER_KEYS or not isinstance(tree, dict) or not isinstance(arrays, list):
        raise ValueError(f"its header is incomplete: expected {sorted(HEADER_KEYS)}; got {sorted(header)}")
    if any(not isinstance(spec, dict) or spec.keys() != {"dtype", "shape"} for spec in arrays):
        raise ValueError("its header describes an array by something else than dtype and shape")
    return header


def _read_npy(raw, name, dtype, shape=None):
    """One array, if its description is the expected one and fits the bytes that follow."""
    stream = io.BytesIO(raw)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name}: not an npy array of version 1.0")
    found_shape, fortran, found = np.lib.format.read_array_header_1_0(stream)
    if found.hasobject:
        raise ValueError(f"{name}: an object array could run code when read; refused")
    if found.str != dtype or found.name not in DTYPES:
        raise ValueError(f"{name}: expected dtype {dtype}; got {found.str}")
    if fortran or (list(found_shape) != shape if shape is not None else len(found_shape) != 1):
        raise ValueError(f"{name}: expected shape {shape or '[n]'} in C order; got {list(found_shape)}")
    payload = stream.read()
    size = found.itemsize * int(np.prod(found_shape, dtype=object))
    if len(payload) != size:
        raise ValueError(f"{name}: truncated, {len(payload)} bytes where {size} are expected")
    return np.frombuffer(payload, found).reshape(found_shape)
