"""The notebooks: a .py and an .ipynb that are the same, small, committed with their outputs, and that run."""

import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

import jaxem
import jaxem.presets

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 400_000

#: What each notebook must come to, wherever it is run: maxima known to more digits than these.
PUBLISHED = {
    "01_quick_start": ("-1126.316", "2314.30"),
    "02_what_em_does": ("4.65591  1.08316  0.81879  0.81137  0.55459", "-38.913372", "-38.923602"),
    "03_every_model": ("-1989.946", "-328.527", "8901.77"),
    "04_hidden_markov": ("391.9189", "342.3183   342.3183", "329.4603   329.4603", "341.8787", "328.5275"),
    "05_what_is_missing": ("mu = 1.500000", "39.89 weeks", "weak prior {'CONVERGED': 32}"),
    "06_your_own_model": (
        "theta = 0.6268215",
        "[0.213591 0.050145 0.736264]",
        "-681.132186, composed of parts -681.132186",
    ),
    "07_many_restarts": ("-1098.22",),
    "08_faster_than_em": ("-4816.930190",),
    "09_large_data": ("relative difference below 1e-6: True", "the same bits: True", "can be read only once"),
    "10_many_devices": ("all-reduces in the program of the loop: 1,", "the same to 1e-5: True"),
}

#: Notebooks that every run of the tests executes; the others are slow, and other tests check what they show.
QUICK = ("01_quick_start", "10_many_devices")

sys.path.insert(0, str(FOLDER))
from build import execute  # noqa: E402

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def test_every_notebook_has_its_pair():
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in sorted(FOLDER.glob("[0-9]*.py"))]
    assert {path.stem for path in NOTEBOOKS} == set(PUBLISHED)


@by_name
def test_py_and_ipynb_are_the_same(path):
    """Change the .py, then run `python notebooks/build.py`."""
    assert cells(nbformat.read(path, 4)) == cells(jupytext.read(path.with_suffix(".py")))


@by_name
def test_committed_with_outputs_and_small(path):
    assert path.stat().st_size < MAX_BYTES
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs if output.get("name") == "stderr"]  # no warnings on show
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_every_preset_is_in_the_notebook_of_every_model():
    text = (FOLDER / "03_every_model.py").read_text()
    presets = [name for name in dir(jaxem.presets) if callable(getattr(jaxem, name, None)) and name.islower()]
    assert len(presets) > 20
    assert [name for name in presets if f"jaxem.{name}(" not in text] == []


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
# The kernel's own machinery warns (of unencrypted TCP, of sockets closed late); what the cells warn of is on stderr.
@pytest.mark.filterwarnings("ignore")
def test_runs(path, tmp_path, monkeypatch):
    """Every cell runs in a fresh kernel, away from the checkout, without a warning."""
    monkeypatch.chdir(tmp_path)
    notebook = execute(nbformat.read(path, 4))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    for number in PUBLISHED[path.stem]:
        assert number in printed
