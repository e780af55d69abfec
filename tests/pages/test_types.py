"""What a type checker knows of the library: every public name, and more than 90 % of all public symbols."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import jaxem

HERE = Path(__file__).parent
USER = HERE / "typed_user.py"


def pyright(*arguments):
    """The output of pyright, with this Python as the one whose packages are looked at."""
    folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(folder.parent)}
    done = subprocess.run(["pyright", *arguments], capture_output=True, text=True, env=env, cwd=HERE, check=False)
    return done.stdout + done.stderr


def test_a_typed_user_meets_no_error():
    assert "0 errors, 0 warnings" in pyright(str(USER))


def test_the_typed_user_imports_every_public_name():
    imports = [node for node in ast.parse(USER.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert {name.name for node in imports for name in node.names} == set(jaxem.__all__)


def test_public_symbols_have_types():
    found = re.search(r"Type completeness score: ([\d.]+)%", pyright("--verifytypes", "jaxem", "--ignoreexternal"))
    assert found
    assert float(found[1]) > 90
