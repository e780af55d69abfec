"""Which folder may import which: a module imports from its own folder and from those below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxem"

#: From the bottom to the top; those of one line do not import each other, but for the last.
FLOORS = (
    ("numerics",),
    ("inputs",),
    ("contract",),
    ("families",),
    ("observed",),
    ("latent",),
    ("priors",),
    ("algorithms",),
    ("engine",),
    ("fitting",),
    ("inference",),
    ("presets", "datasets", "constraints"),
    ("plot", "sklearn", "testing"),
    ("program",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}

#: What else is allowed, and why.
EXCEPTIONS = {
    ("inference/serialization.py", "jaxem"): "a file may name any public class: they are looked up when it is read",
}


def imported(path):
    """(folder or file at the top of jaxem, line) of everything that a module imports from jaxem."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxem":
            parts = node.module.split(".")
            yield from (
                [(parts[1], node.lineno)] if len(parts) > 1 else [(alias.name, node.lineno) for alias in node.names]
            )
        elif isinstance(node, ast.Import):
            yield from [(a.name.split(".")[-1], node.lineno) for a in node.names if a.name.split(".")[0] == "jaxem"]


def floor_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_from_below(path):
    own, name = floor_of(path), path.relative_to(ROOT).as_posix()
    wrong = [
        f"line {line}: {other}"
        for other, line in imported(path)
        if (name, other) not in EXCEPTIONS and other != own and LEVEL[other] >= LEVEL[own]
    ]
    assert not wrong, f"{name} is on the floor of {own}, and imports {wrong}"


@pytest.mark.parametrize(
    "folder", [path for path in sorted(ROOT.iterdir()) if (path / "__init__.py").exists()], ids=str
)
def test_every_folder_says_what_it_is(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
