"""Files come back bit for bit; damaged or hostile ones are refused by name."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.contract.model import Model, model_class
from jaxem.contract.pytree import static
from jaxem.engine import container


@model_class
class Shifted(Model):
    """A user's own model, with static fields of every kind and leaves that are numbers or arrays."""

    prior: Any = 0.1
    table: Any = None
    name: str = static(default="a")
    sizes: tuple = static(default=(1, "two", None, True))

    def constraints(self):
        return Location(jaxem.constraints.Real())


class Location(NamedTuple):
    centre: Any


def gaussian_case(covariance="full", dtype=np.float32):
    model = jaxem.gaussian_mixture(2, covariance=covariance, floor=1e-7)
    tail = {"full": (2, 3, 3), "tied": (3, 3), "diag": (2, 3), "spherical": (2,)}[covariance]
    rng = np.random.default_rng(0)
    parts = rng.dirichlet([1, 1]), jaxem.GaussianParams(rng.normal(size=(2, 3)), rng.normal(size=tail))
    return model, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), jaxem.MixtureParams(*parts))


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(one) is type(other)
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.npz"
    jaxem.save(path, *gaussian_case())
    return path


def entries(path):
    with np.load(path) as file:
        return dict(file)


def rewrite(path, change_header=lambda header: None, **arrays):
    """The same file with other contents and a checksum that fits them: what only the other checks can refuse."""
    content = entries(path)
    header = json.loads(content.pop("header").tobytes())
    content = {name: array for name, array in (content | arrays).items() if array is not None}
    change_header(header)
    stored = [content[f"array_{i}"] for i in range(len(header["arrays"])) if f"array_{i}" in content]
    if not any(array.dtype.hasobject for array in stored):
        header["checksum"] = container.checksum(header, stored)
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=text, **content)


# --- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_params_return_bit_for_bit(tmp_path, covariance, dtype):
    with jax.enable_x64(dtype == np.float64):
        model, params = gaussian_case(covariance, dtype)
        # A NaN with a payload, infinities, the smallest numbers and negative zero all have bits worth keeping.
        odd = jnp.asarray([[np.nan, np.inf, -0.0], [-np.inf, np.finfo(dtype).smallest_subnormal, 1 / 3]], dtype)
        params = params._replace(components=params.components._replace(mean=odd))
        jaxem.save(tmp_path / "a.npz", model, params)
        again, loaded = jaxem.load(tmp_path / "a.npz")
    assert again == model
    assert_same_bits(loaded, params)


def test_results_and_restarts_return_whole(tmp_path):
    x = jaxem.datasets.old_faithful()
    model = jaxem.gaussian_mixture(2)
    restarts = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=3)
    for name, value in (("best", restarts.best), ("all", restarts), ("params", restarts.all.params)):
        jaxem.save(tmp_path / name, model, value)
        again, loaded = jaxem.load(tmp_path / name)
        assert_same_bits((again, loaded), (model, value))
    assert jaxem.load(tmp_path / "best")[1].message == restarts.best.message


def test_a_loaded_model_is_the_same_to_the_compiler(saved):
    (model, params), (again, loaded) = gaussian_case(), jaxem.load(saved)
    traces = []

    @jax.jit
    def count(model, params):
        traces.append(1)
        return params.weights * model.component.floor

    count(model, params), count(again, loaded)
    assert len(traces) == 1


def test_own_classes_with_every_kind_of_field(tmp_path):
    table = {"rows": [np.arange(3), jnp.arange(2.0)], "flag": True, "note": "x", "inf": float("inf"), "none": None}
    model = Shifted(prior=1 / 3, table=table, name="b")
    params = Location(np.asarray(2 / 3))
    path = tmp_path / "own.npz"
    jaxem.save(path, model, params, types=[Shifted, Location])
    again, loaded = jaxem.load(path, types=[Shifted, Location])
    assert_same_bits((again, loaded), (model, params))
    assert again.table["rows"][0].flags.writeable
    with pytest.raises(ValueError, match=r"own\.npz: unknown type 'Shifted' at model.*types="):
        jaxem.load(path)
    with pytest.raises(ValueError, match="unknown type 'Location' at result_or_params"):
        jaxem.load(path, types=[Shifted])


def test_float64_is_never_cut_in_silence(tmp_path):
    path = tmp_path / "wide.npz"
    with jax.enable_x64(True):
        model, params = gaussian_case(dtype=np.float64)
        jaxem.save(path, model, params)
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"wide\.npz: result_or_params\.weights is float64.*jax_enable_x64"):
            jaxem.load(path)
        rounded = jaxem.load(path, dtype="float32")[1]
        assert_same_bits(rounded, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float32), params))


def test_the_path_is_taken_literally_and_overwritten_whole(tmp_path, monkeypatch):
    path = tmp_path / "no_suffix"
    model, params = gaussian_case()
    jaxem.save(path, model, params)
    jaxem.save(path, model, params._replace(weights=params.weights[::-1]))
    assert_same_bits(jaxem.load(str(path))[1].weights, params.weights[::-1])

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        jaxem.save(path, model, params)
    assert_same_bits(jaxem.load(path)[1].weights, params.weights[::-1])
    assert [file.name for file in tmp_path.iterdir()] == ["no_suffix"]


# --- what is refused on the way out ----------------------------------------------------------------------------------


def test_functions_and_unknown_classes_are_refused(tmp_path):
    model, params = gaussian_case()
    steps = jaxem.from_steps(lambda p, x: (x, x), lambda r, x: r.mean())
    cases = [
        (steps, params, r"model\.e_step_function: a function"),
        (model, params._replace(weights=len), r"result_or_params\.weights: a function"),
        (model, params._replace(weights={1, 2}), r"result_or_params\.weights: expected .* got set"),
        (model, params._replace(weights=np.array(["a"], object)), r"weights: expected an array of .* got object"),
        (model, params._replace(weights=jnp.ones(2, jnp.bfloat16)), "got bfloat16"),
        (model, params._replace(weights=jax.random.key(0)), "got key"),
        (model, params.components, "result_or_params: expected params of structure"),
        (params, params, "model: expected a jaxem.Model; got MixtureParams"),
        (Shifted(), Location(0.0), "model: expected .* got Shifted"),
    ]
    for one, value, message in cases:
        with pytest.raises(ValueError, match=message):
            jaxem.save(tmp_path / "a.npz", one, value)
    with pytest.raises(ValueError, match="traced value"):
        jax.jit(lambda p: jaxem.save(tmp_path / "a.npz", model, p))(params)
    assert list(tmp_path.iterdir()) == []


def test_types_must_be_records_with_names_of_their_own(saved):
    with pytest.raises(ValueError, match=r"types: expected NamedTuple or dataclass"):
        jaxem.load(saved, types=[dict])
    with pytest.raises(ValueError, match=r"types: the name 'Result' is taken"):
        jaxem.load(saved, types=[NamedTuple("Result", [("a", int)])])


# --- what is refused on the way in -----------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def hostile_array(kind):
    return {
        "dtype": np.ones(2, np.float64),
        "shape": np.ones(3, np.float32),
        "object": np.array([Bomb(), Bomb()], object),
        "missing": None,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dtype", "expected dtype <f4; got <f8"),
        ("shape", r"expected shape \[2\] in C order; got \[3\]"),
        ("object", "object array could run code"),
        ("missing", r"missing \['array_0.npy'\]"),
    ],
)
def test_wrong_arrays_are_named(saved, kind, message, monkeypatch):
    monkeypatch.chdir(saved.parent)
    rewrite(saved, array_0=hostile_array(kind))
    with pytest.raises(ValueError, match=rf"model\.npz: .*{message}"):
        jaxem.load(saved)
    assert not os.path.exists("ran")


def put(*where, value):
    def change(header):
        node = header
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format_version", value=2), "format version 2, .* which reads version 1"),
        (put("format", value="other"), "not one of jaxem"),
        (lambda header: header.pop("tree"), "header is incomplete"),
        (put("tree", "model", "class", value="os.system"), "unknown type 'os.system' at model"),
        (put("tree", "model", "class", value="Path"), "unknown type 'Path' at model"),
        (put("tree", "model", "class", value=["Mixture"]), "unknown type"),
        (put("tree", "model", "fields", "n_components", value=0), "Mixture refuses its fields"),
        (put("tree", "model", "fields", "n_components", value={"list": [2]}), "Mixture refuses its fields"),
        (
            put("tree", "model", "fields", "component", value="Gaussian"),
            "Mixture refuses its fields .component: expected a family",
        ),
        (put("tree", "model", "fields", "more", value=1), "Mixture has the fields .*more"),
        (lambda header: header["tree"]["model"]["fields"].pop("component"), "Mixture has the fields"),
        (put("tree", "model", value=None), "model: expected a jaxem.Model; got NoneType"),
        (put("tree", "result_or_params", value=None), "3 arrays belong to nothing"),
        (put("tree", "result_or_params", "class", value="GaussianParams"), "GaussianParams has the fields"),
        (put("tree", "result_or_params", "fields", "components", "class", value="Restarts"), "Restarts has the fields"),
        (put("tree", "result_or_params", value={"call": "x"}), "result_or_params is not a known kind"),
        (put("tree", "result_or_params", value=1.5), "result_or_params is not a known kind"),
        (put("tree", "result_or_params", value={"jax": 7}), "refers to array 7"),
        (put("tree", "result_or_params", value={"jax": True}), "refers to array True"),
        (put("tree", "result_or_params", "fields", "weights", value={"jax": 1}), "already taken"),
        (put("tree", "result_or_params", "fields", "weights", value={"float": "0x1p0"}), "1 arrays belong to nothing"),
        (put("arrays", 0, value=[2]), "describes an array"),
        (put("arrays", 0, "shape", value=[-2]), r"expected shape \[-2\]"),
        (put("arrays", 0, "dtype", value="|O"), r"expected dtype \|O"),
    ],
)
def test_wrong_headers_are_named(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=rf"model\.npz: .*{message}"):
        jaxem.load(saved)


def test_extra_arrays_and_altered_numbers_are_found(saved):
    intact = saved.read_bytes()
    rewrite(saved, array_9=np.ones(1))
    with pytest.raises(ValueError, match=r"unexpected \['array_9.npy'\]"):
        jaxem.load(saved)
    saved.write_bytes(intact)
    content = entries(saved)
    content["array_0"] = content["array_0"][::-1].copy()
    np.savez(saved, **content)
    with pytest.raises(ValueError, match=r"model\.npz: damaged: .* checksum"):
        jaxem.load(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an npz file"),
        (b"plain text", "not an npz file"),
        (pickle.dumps(Bomb()), "not an npz file"),
    ],
)
def test_other_files_are_not_npz(tmp_path, content, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"other\.npz: {message}"):
        jaxem.load(path)
    assert not os.path.exists("ran")


def test_npz_of_others_and_compressed_ones(saved, tmp_path):
    content = entries(saved)
    other = tmp_path / "other.npz"
    for save_as, arrays, message in [
        (np.savez, {"a": np.ones(2)}, "no header"),
        (np.savez, {"header": np.ones(2)}, "expected dtype"),
        (np.savez, {"header": np.frombuffer(b"{not json", np.uint8)}, "not JSON"),
        (np.savez, {"header": np.frombuffer(b"[" * 100_000, np.uint8)}, "not JSON"),
        (np.savez, {"header": np.frombuffer(b"[]", np.uint8)}, "not one of jaxem"),
        (np.savez_compressed, content, "compressed"),
    ]:
        save_as(other, **arrays)
        with pytest.raises(ValueError, match=rf"other\.npz: .*{message}"):
            jaxem.load(other)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("array_0.npy", zipfile.ZipFile(io.BytesIO(saved.read_bytes())).read("array_0.npy"))
    with pytest.raises(ValueError, match="twice the same"):
        jaxem.load(saved)
    with pytest.raises(FileNotFoundError):
        jaxem.load(tmp_path / "nowhere.npz")


def test_truncation_anywhere_is_found(saved):
    intact = saved.read_bytes()
    for length in range(0, len(intact), 37):
        saved.write_bytes(intact[:length])
        with pytest.raises(ValueError, match=r"model\.npz: "):
            jaxem.load(saved)


def test_no_altered_byte_changes_what_is_loaded(saved):
    """A byte of the zip's bookkeeping (dates, attributes) may differ; then the content is still the same."""
    model, params = gaussian_case()
    intact = saved.read_bytes()
    refused = 0
    for position in range(0, len(intact), 3):
        saved.write_bytes(intact[:position] + bytes([intact[position] ^ (1 << position % 8)]) + intact[position + 1 :])
        try:
            again, loaded = jaxem.load(saved)
        except ValueError as error:
            refused += "model.npz: " in str(error)
        else:
            assert again == model
            assert_same_bits(loaded, params)
    assert refused > 0.5 * len(intact) / 3


#: Files that version 0.1 wrote, of fits of Old Faithful: the class of the model, and the log-likelihood.
OLD_FILES = {
    "gm": (jaxem.Mixture, -1130.263672),
    "hmm": (jaxem.HMM, -1288.329834),
    "prior": (jaxem.WithPrior, -1134.400879),
    "restr": (jaxem.Restricted, -1140.187012),
}


@pytest.mark.parametrize("name", OLD_FILES)
def test_files_of_version_0_1_load(name):
    kind, log_lik = OLD_FILES[name]
    model, result = jaxem.load(Path(__file__).parents[1] / "data" / f"saved_by_0_1_{name}.npz")
    assert type(model) is kind
    assert float(result.log_lik) == pytest.approx(log_lik)
    assert float(model.log_prob(result.params, jaxem.datasets.old_faithful()).sum()) == pytest.approx(log_lik, rel=1e-6)


def test_a_result_is_rounded_on_purpose(tmp_path, float64):
    x = jaxem.datasets.old_faithful()
    model = jaxem.gaussian_mixture(2)
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x), max_steps=3)
    jaxem.save(tmp_path / "fit.npz", model, result)
    with jax.enable_x64(False):
        _, loaded = jaxem.load(tmp_path / "fit.npz", dtype="float32")
    assert loaded.params.components.mean.dtype == np.float32
    assert loaded.degenerate.dtype == bool
