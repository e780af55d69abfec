"""What the docstrings, README.md and CONTRIBUTING.md show is run as it stands, in float32 as a reader would."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import jax
import matplotlib
import mechanisms
import pytest
import zoo

import jaxem

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def as_a_reader(tmp_path, monkeypatch):
    """JAX's default float32, figures that open no window, an empty folder; and everything as it was afterwards."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


def modules():
    found = [module.name for module in pkgutil.walk_packages(jaxem.__path__, "jaxem.")]
    return ["jaxem", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_docstrings(name):
    module = importlib.import_module(name)
    failed = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(module):
        report = []
        runner.run(test, out=report.append)
        failed += report
    assert not failed, "".join(failed)


def examples_of(module):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


def test_examples_are_found():
    """The finder sees the methods that `model_class` compiles and the functions that a module imports by name."""
    assert "jaxem.fitting.fit.fit" in {test.name for test in examples_of(importlib.import_module("jaxem.fitting.fit"))}
    assert sum(len(examples_of(importlib.import_module(name))) for name in modules()) > 10


@pytest.mark.parametrize("page", PAGES)
def test_pages(page):
    """The python blocks of a page, in order, in one session."""
    text = (ROOT / page).read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            # Padded with the lines above it, so that a traceback names the line of the page.
            source = "\n" * (text[: block.start(1)].count("\n")) + block.group(1)
            exec(compile(source, str(ROOT / page), "exec"), namespace)


def test_every_public_name_is_described():
    """Whatever `jaxem.` offers has a docstring."""
    names = [name for name in vars(jaxem) if not name.startswith("_")]
    undescribed = [name for name in names if not getattr(jaxem, name).__doc__]
    assert not undescribed


@pytest.mark.slow
def test_the_table_of_mechanisms_is_what_works():
    """Run `python tests/mechanisms.py` and put what it prints into docs/mechanisms.md."""
    assert mechanisms.table() in (ROOT / "docs" / "mechanisms.md").read_text()


def test_the_table_of_mechanisms_has_every_model():
    page = (ROOT / "docs" / "mechanisms.md").read_text()
    assert [row.shown[1] for row in zoo.ZOO if f"| `{row.shown[1]}` |" not in page and row.shown[1]] == []


def test_the_table_of_models_is_that_of_the_zoo():
    """Run `python tests/zoo.py` and put what it prints into README.md."""
    assert zoo.table() in (ROOT / "README.md").read_text()
