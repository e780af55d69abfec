"""`python -m jaxem`: see `jaxem.cli`. Compiled programs are kept for the next time, in the user's cache."""

import os
import sys
from pathlib import Path

import jax

from jaxem.cli import main


def keep_programs():
    """Tell jax where, unless the user did."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxem"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


if __name__ == "__main__":
    keep_programs()
    sys.exit(main())
