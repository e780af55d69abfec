"""The command `python -m jaxem`, which is in `jaxem.program.cli`.

Compiled programs are kept in the user's cache for the next time.
"""

import os
import sys
import warnings
from pathlib import Path

import jax

from jaxem.program.cli import main


def keep_programs() -> None:
    """Tell jax where, unless the user did."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxem"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        # Threads that compile the same program find each other's half-written file, and compile
        # it once more.
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")


if __name__ == "__main__":
    keep_programs()
    sys.exit(main())
