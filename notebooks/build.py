"""Run the notebooks and write them with their outputs: `python notebooks/build.py [name.py ...]`.

The .py files (jupytext, py:percent) are the source; each .ipynb is the same cells with what they print and draw.
"""

import base64
import io
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent


def execute(notebook, timeout=300):
    """Run every cell of a notebook in a fresh kernel, in place; a cell that raises ends it with CellExecutionError."""
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True
    ).execute()
    return notebook


def compress(png: str, n_colours=96) -> str:
    """The same picture (base64 PNG) with a palette: a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    smaller = io.BytesIO()
    picture.quantize(n_colours, dither=Image.Dither.NONE).save(smaller, "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def build(source: Path):
    """Write the .ipynb beside the .py `source`."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random ids would differ in every build
    execute(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data = {"image/png": compress(output.data["image/png"])}
    notebook.metadata = {name: notebook.metadata[name] for name in ("jupytext", "kernelspec")}
    nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(HERE.glob("[0-9]*.py")):
        build(path)
