"""The program: what it prints, what it draws, and one line for every bad input."""

import importlib.util
import os
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

import jaxem
from jaxem.program import report
from jaxem.program.cli import main
from jaxem.program.tables import read_table

X = jaxem.datasets.old_faithful()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_file_it_fits_old_faithful(folder):
    arguments = ["--k", "1-2", "--restarts", "4", "--covariance", "tied"]
    known = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "jaxem", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**known, "XDG_CACHE_HOME": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert any((folder / "cache" / "jaxem").iterdir()), "compiled programs are kept for the next time"
    assert "Old Faithful: 272 rows of eruption (min), waiting (min)" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line.startswith("tied ")]
    assert table[0][:5] == ["tied", "1", "5", "-1289.797", "2589.59"]
    assert table[1][:4] == ["tied", "2", "8", "-1140.187"]
    assert "Smallest BIC: tied 2 (2325.22), tied 1 (2607.62)" in done.stdout
    assert "Chosen: tied covariance, k = 2" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert {"EM", "Adam", "L-BFGS"} <= set(rows)
    assert rows["L-BFGS"].split()[1] == "-1140.187"
    picture = matplotlib.image.imread(folder / "jaxem.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05


@pytest.mark.slow
def test_a_file_of_three_columns(folder, capsys):
    rng = np.random.default_rng(0)
    np.save("three.npy", rng.normal(size=(60, 3)) + 8 * rng.integers(0, 2, (60, 1)) * [1.0, 0.0, 1.0])
    code = main(["three.npy", "--k", "2", "--covariance", "spherical", "--restarts", "4", "--out", "here.pdf"])
    out = capsys.readouterr().out
    assert code == 0
    assert "three.npy: 60 rows of x1, x2, x3" in out
    assert "Chosen: spherical covariance, k = 2" in out
    assert (folder / "here.pdf").stat().st_size > 5000


BAD = {
    "no such file": (["none.csv"], "none.csv: no such file"),
    "a folder": (["."], "is a folder"),
    "another kind": (["x.xlsx"], "expected a file named .csv"),
    "text": (["text.csv"], "column 'b' holds text ('oak' in line 3)"),
    "text without header": (["plain.csv"], "column 'x2' holds text ('?!' in line 2)"),
    "a hole": (["hole.csv"], "column 'a' holds NaN, missing or infinite values (1 of 3 rows, the first is line 3)"),
    "infinite": (["inf.npy"], "column 'x2' holds NaN, missing or infinite values (1 of 4 rows, the first is row 2)"),
    "constant": (["constant.csv"], "column 'b' is constant (7)"),
    "unknown column": (["good.csv", "--columns", "a,z"], "no column 'z'; it has a, b"),
    "a column twice": (["good.csv", "--columns", "a,a"], "--columns: 'a' is named twice"),
    "columns of nothing": (["--columns", "a"], "--columns: is for a file"),
    "too few rows": (["good.csv", "--k", "1-9"], "--k: 9 components need at least 9 rows; good.csv has 4"),
    "empty": (["empty.csv"], "empty.csv: is empty"),
    "only a header": (["header.csv"], "header.csv: holds no rows"),
    "ragged": (["ragged.csv"], "line 3 has 3 fields, the first line has 2"),
    "a broken NPY": (["broken.npy"], "not a readable NPY file"),
    "objects": (["objects.npy"], "not a readable NPY file"),
    "strings": (["strings.npy"], "expected an array of numbers; got dtype <U3"),
    "three dimensions": (["cube.npy"], "expected an array [n] or [n, d]; got shape (2, 2, 2)"),
    "a broken Parquet": (["broken.parquet"], "not a readable Parquet file"),
    "not text": (["bytes.csv"], "not a text file in UTF-8"),
    "names twice": (["twins.csv"], "two columns are named 'a'"),
    "no folder for the picture": (["good.csv", "--out", "nowhere/x.png"], "--out: no folder nowhere"),
    "not a picture": (["good.csv", "--out", "x.doc"], "--out: x.doc is not named as a picture"),
}

OPTIONS = {
    "unknown option": (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    "shortened option": (["--rest", "4"], "unrecognized arguments"),
    "two files": (["a.csv", "b.csv"], "unrecognized arguments: b.csv"),
    "k of 0": (["--k", "0-3"], "argument --k: expected whole numbers of at least 1"),
    "k backwards": (["--k", "6-1"], "argument --k"),
    "k of text": (["--k", "many"], "got 'many'"),
    "unknown covariance": (["--covariance", "tied,round"], "argument --covariance: expected some of full"),
    "no restarts": (["--restarts", "0"], "argument --restarts: expected a whole number of at least 1; got '0'"),
    "fractional seed": (["--seed", "1.5"], "argument --seed: expected a whole number of at least 0; got '1.5'"),
    "an option without its value": (["--out"], "argument --out: expected one argument"),
}


@pytest.fixture
def files(folder):
    (folder / "good.csv").write_text("a,b\n1,2\n2,1\n3,5\n4,4\n")
    (folder / "text.csv").write_text("a,b\n1,2\n2,oak\n")
    (folder / "plain.csv").write_text("1,2\n2,?!\n")
    (folder / "hole.csv").write_text("a,b\n1,2\n,1\n3,5\n")
    (folder / "constant.csv").write_text("a,b\n1,7\n2,7\n")
    (folder / "empty.csv").write_text("\n\n")
    (folder / "header.csv").write_text("a,b\n")
    (folder / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    (folder / "twins.csv").write_text("a,a\n1,2\n2,1\n")
    (folder / "bytes.csv").write_bytes(b"\xff\xfe\x00a\n")
    (folder / "x.xlsx").write_bytes(b"PK")
    (folder / "broken.npy").write_bytes(b"not numbers")
    (folder / "broken.parquet").write_bytes(b"not a table")
    np.save(folder / "inf.npy", np.array([[1.0, 2], [2, 3], [3, np.inf], [4, 4]]))
    np.save(folder / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(folder / "strings.npy", np.array(["one", "two"]))
    np.save(folder / "cube.npy", np.arange(8.0).reshape(2, 2, 2))
    return folder


def one_line(captured, message):
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "error: " in captured.err
    assert message in captured.err


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(arguments, message, files, capsys):
    assert main(arguments) == 2
    one_line(capsys.readouterr(), message)


@pytest.mark.parametrize(("arguments", "message"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options_get_one_line(arguments, message, folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    one_line(capsys.readouterr(), message)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("columns", "k", "covariance", "restarts", "seed", "out"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "  "])
def test_text_tables_by_any_separator(folder, separator):
    (folder / "t.txt").write_text(separator.join(("a", "b", "kind")) + f"\n1{separator}2.5{separator}oak\n")
    table = read_table("t.txt", ["b", "a"])
    np.testing.assert_array_equal(table.values, [[2.5, 1]])
    assert table.names == ["b", "a"]


def test_a_first_line_of_numbers_is_data(folder):
    (folder / "t.csv").write_text('1,"2"\n3e1,4\n\n5,-6.5\n')
    table = read_table("t.csv")
    np.testing.assert_array_equal(table.values, [[1, 2], [30, 4], [5, -6.5]])
    assert table.names == ["x1", "x2"]


def test_parquet_and_one_dimensional_npy(folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, 0.25, 1], "kind": list("xyz")}).to_parquet("t.parquet")
    np.testing.assert_array_equal(read_table("t.parquet", ["a", "b"]).values, [[1, 0.5], [2, 0.25], [3, 1]])
    with pytest.raises(ValueError, match=r"column 'kind' holds text \('x' in row 0\)"):
        read_table("t.parquet")
    np.save("t.npy", np.array([1, 2, 4], np.int32))
    np.testing.assert_array_equal(read_table("t.npy").values, [[1], [2], [4]])


def test_parquet_without_pandas_says_what_to_install(folder, monkeypatch, capsys):
    (folder / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert main(["t.parquet"]) == 2
    one_line(capsys.readouterr(), "pip install 'jaxem[files]'")


def test_a_picture_asked_for_without_matplotlib(files, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert main(["good.csv", "--k", "1", "--out", "x.png"]) == 2
    one_line(capsys.readouterr(), "pip install 'jaxem[plot]'")


def test_parameters_are_printed_in_the_units_of_the_data():
    params = jaxem.MixtureParams(
        np.array([0.25, 0.75]), jaxem.GaussianParams(np.array([[1.5, 2], [3, 1234.5]]), np.array([4.0, 9.0]))
    )
    model = jaxem.gaussian_mixture(2, covariance="spherical")
    params = report.heaviest_first(model, params)
    lines = [line.split() for line in report.parameters(model, params, ["a", "b"]).splitlines()]
    assert lines[1] == ["1", "mean", "0.7500", "3", "1234.5"]
    assert lines[2] == ["2", "mean", "0.2500", "1.5", "2"]
    assert lines[3] == ["1", "sd", "3", "3"]


def test_the_columns_drawn_are_those_that_tell_components_apart():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) * [1, 100, 1, 1]
    mean = np.array([[0, 0, 5.0, -4], [0, 3, -5, 4]])
    params = jaxem.MixtureParams(np.array([0.5, 0.5]), jaxem.GaussianParams(mean, None))
    assert report.telling_columns(params, x) == (2, 3)
    assert report.telling_columns(params, x[:, :1]) == (0,)


def test_one_column_has_no_covariance_to_shape():
    from jaxem.program.cli import COVARIANCES, _distinct

    assert _distinct(COVARIANCES) == ["full", "tied"]
    assert _distinct(["tied", "spherical", "diag"]) == ["tied", "spherical"]
