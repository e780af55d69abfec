"""The program `python -m jaxem [file]` fits Gaussian mixtures, chooses one by BIC and draws it."""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxem import datasets
from jaxem.families.gaussian import STRUCTURES, GaussianParams
from jaxem.inference.comparison import compare_algorithms
from jaxem.inference.selection import select
from jaxem.latent.mixture import MixtureParams
from jaxem.presets import gaussian_mixture
from jaxem.program import report
from jaxem.program.tables import Table, read_table

COVARIANCES = ("full", "tied", "diag", "spherical")

#: Limits of the comparison of algorithms: the number of starts; of steps; of rows times starts
#: times steps, which is some seconds of work; and of repeats of each run.
COMPARED_STARTS, COMPARED_STEPS, COMPARED_WORK, COMPARED_REPEATS = 16, 300, 50_000_000, 1

#: Without a terminal, the program writes a line of progress after this many seconds without one.
SILENCE = 15.0


class Parser(argparse.ArgumentParser):
    """A parser that reports every mistake in one line."""

    def error(self, message: str) -> None:
        """Print the message and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments; None takes them from the command line.

    Returns:
        The exit code: 0, 1 if the output was closed, 2 for bad input, 130 if it was interrupted.
    """
    options = parser().parse_args(argv)
    try:
        with jax.enable_x64(True):
            return run(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"jaxem: error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxem: interrupted", file=sys.stderr)
        return 130


def parser() -> Parser:
    """The parser of the program's options."""
    p = Parser(prog="python -m jaxem", description=__doc__, allow_abbrev=False)
    p.add_argument("file", nargs="?", help="CSV, NPY or Parquet; without one, the Old Faithful geyser's eruptions")
    p.add_argument("--columns", type=_names, metavar="A,B", help="columns to use (default: all)")
    p.add_argument("--k", type=_sizes, default="1-6", metavar="1-6", help="numbers of components: 1-6, or 2,3,5")
    p.add_argument(
        "--covariance",
        type=_structures,
        default=",".join(COVARIANCES),
        metavar="A,B",
        help=f"out of {', '.join(STRUCTURES)} (default: the first four)",
    )
    p.add_argument("--restarts", type=_positive, default=64, metavar="N", help="starts of every model (default: 64)")
    p.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the random starts (default: 0)")
    p.add_argument("--out", type=Path, metavar="PNG", help="the picture (default: jaxem.png)")
    return p


def _names(text):
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between; got {text!r}")
    return names


def _sizes(text):
    try:
        sizes = [k for part in text.split(",") for k in _range(*part.split("-"))]
    except (TypeError, ValueError):
        sizes = []
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1, as 1-6 or 2,3,5; got {text!r}")
    return sorted(set(sizes))


def _range(first, last=None):
    return range(int(first), int(last or first) + 1)


def _structures(text):
    names = _names(text)
    unknown = [name for name in names if name not in STRUCTURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(STRUCTURES)}; got {unknown[0]!r}")
    return list(dict.fromkeys(names))


def _whole(text, minimum):
    if not text.isdecimal() or not minimum <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}; got {text!r}")
    return int(text)


def _positive(text):
    return _whole(text, 1)


def _seed(text):
    return _whole(text, 0)


# --- the work -------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Do the work: fit, choose, compare, draw and print.

    Args:
        options: the parsed options.

    Returns:
        The exit code 0.

    Raises:
        ValueError: the input is not usable, or no model has a proper fit.
    """
    begun = time.perf_counter()
    out = _picture_path(options.out)
    table, title = _table(options)
    x, names = table
    covariances = options.covariance if len(names) > 1 else _distinct(options.covariance)
    models = {(c, k): gaussian_mixture(k, covariance=c) for c in covariances for k in options.k}
    print(f"{title}: {len(x):,} rows of {', '.join(names)}")
    print(f"{len(models)} Gaussian mixtures, {options.restarts} restarts each, seed {options.seed}, float64\n")
    with Progress(len(models) + 1) as progress:
        candidates = sweep(models, x, options, progress)
        fitted = time.perf_counter()
        chosen = candidates[0]
        if not chosen.proper:
            raise ValueError("every start of every model collapsed or failed: try --covariance diag, or fewer --k")
        params = report.heaviest_first(chosen.model, chosen.best.params)
        progress.say(report.choice(candidates, params, names))
        on_what = report.name_of(chosen.model)
        progress.say(f"\nEM against gradient ascent on {on_what}, from the same random rows as means:")
        compared = compare(chosen.model, x, options.seed)
        progress.step()
    print(compared.table())
    print(COMPARISON_KEY)
    times = {"models": fitted - begun, "comparison": time.perf_counter() - fitted}
    if out is not None:
        draw(out, x, names, candidates, params, compared, title)
        times["picture"] = time.perf_counter() - begun - sum(times.values())
        print(f"\nPicture: {out}")
    else:
        print("\nNo picture: matplotlib is missing (pip install 'jaxem[plot]')")
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items())
    print(f"Time: {time.perf_counter() - begun:.1f} s ({parts})")
    return 0


COMPARISON_KEY = (
    "best, median: log-likelihood at the end (nats); there: starts that came within 0.01 nats of the best of all;\n"
    "evaluations: passes over the data until there (median); seconds: until half of those were there, all starts\n"
    "side by side; s in all: to the end; s compiling: apart, all programs side by side"
)


def _table(options):
    """(the table, its title) of the file, or of Old Faithful where no file is given."""
    if options.file is None:
        table, title = Table(datasets.old_faithful(), ["eruption (min)", "waiting (min)"]), "Old Faithful"
        if options.columns is not None:
            raise ValueError("--columns: is for a file, and none was given")
    else:
        table, title = read_table(options.file, options.columns), Path(options.file).name
    n, k = len(table.values), max(options.k)
    if n < k:
        raise ValueError(f"--k: {k} components need at least {k} rows; {title} has {n}")
    if n < 2:
        raise ValueError(f"{title}: has a single row, and a density needs more")
    return table, title


def _picture_path(out):
    """The path of the picture, which is checked before the work begins.

    It is None if matplotlib is missing and no picture is asked for.
    """
    if importlib.util.find_spec("matplotlib") is None:
        if out is not None:
            raise ValueError("--out: a picture needs matplotlib: pip install 'jaxem[plot]'")
        return None
    from matplotlib.figure import Figure

    out = Path("jaxem.png") if out is None else out
    known = Figure().canvas.get_supported_filetypes()
    if out.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"--out: {out} is not named as a picture; expected one of {', '.join(sorted(known))}")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out: {out} is a folder" if out.is_dir() else f"--out: no folder {out.parent}")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ValueError(f"--out: {out} cannot be written")
    return out


def _distinct(covariances):
    """The structures that differ in one dimension, where only shared and separate variances do."""
    first: dict = {}
    for name in covariances:
        first.setdefault(STRUCTURES[name][1], name)
    return list(first.values())


def sweep(models: Any, x: Any, options: argparse.Namespace, progress: "Progress") -> Any:
    """Fit all models, and print a line for each as soon as it is finished.

    Args:
        models: the models by name.
        x: rows [n, d].
        options: the parsed options.
        progress: where lines are printed.

    Returns:
        The candidates, ranked by BIC.
    """

    def show(candidate):
        progress.say(report.candidate_row(candidate))
        progress.step()

    progress.say(report.CANDIDATE_HEAD)
    candidates = select(models, x, jax.random.key(options.seed), n_restarts=options.restarts, callback=show)
    if any(candidate.interrupted for candidate in candidates):  # Ctrl-C has ended only the fit.
        raise KeyboardInterrupt
    progress.say(report.CANDIDATE_KEY)
    return candidates


def compare(model: Any, x: Any, seed: int) -> Any:
    """Compare EM, Adam and L-BFGS from the same few starts; with many rows, in fewer steps.

    Args:
        model: the chosen model.
        x: rows [n, d].
        seed: the seed of the random starts.

    Returns:
        A `Comparison`.
    """
    n_starts = COMPARED_STARTS if len(x) <= 5000 else 4
    max_steps = int(np.clip(COMPARED_WORK // (len(x) * n_starts), 50, COMPARED_STEPS))
    starts = random_rows(model, x, seed, n_starts)
    return compare_algorithms(model, x, starts, max_steps=max_steps, repeats=COMPARED_REPEATS)


def random_rows(model: Any, x: Any, seed: int, n_starts: int) -> MixtureParams:
    """Starts with random rows as means and the covariance of the data.

    They are made on the host, so that nothing is compiled.

    Args:
        model: a Gaussian mixture.
        x: rows [n, d].
        seed: the seed.
        n_starts: the number of starts.

    Returns:
        Params with a leading axis of starts.
    """
    k, d, gaussian = model.n_components, x.shape[1], model.component
    rng = np.random.default_rng(seed)
    means = np.stack([x[rng.choice(len(x), k, replace=False)] for _ in range(n_starts)])
    cov = np.atleast_2d(np.cov(x.T))
    if gaussian.shape != "full":
        cov = np.diagonal(cov) if gaussian.shape == "diag" else np.trace(cov) / d
    shape = (n_starts, *(() if gaussian.shared else (k,)), *np.shape(cov))
    return MixtureParams(np.full((n_starts, k), 1 / k), GaussianParams(means, np.broadcast_to(cov, shape)))


def draw(out: Path, x: Any, names: list[str], candidates: Any, params: Any, compared: Any, title: str) -> None:
    """Write the picture (see `report.figure`) to the file `out`."""
    import matplotlib

    matplotlib.use("Agg")  # This backend writes files and needs no screen.
    import matplotlib.pyplot as plt

    figure = report.figure(x, names, candidates, params, compared, title)
    figure.savefig(out, dpi=110)
    plt.close(figure)


class Progress:
    """Shows progress on stderr: a bar (tqdm) on a terminal, and a line at intervals otherwise.

    Args:
        total: the number of steps.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.begun = total, 0, time.perf_counter()
        self.spoken, self.bar = self.begun, None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            self.bar = tqdm(total=total, file=sys.stderr, unit="model", leave=False)

    def say(self, text: str) -> None:
        """Print a text above the bar, without delay."""
        if self.bar is not None:
            self.bar.clear()
        print(text, flush=True)

    def step(self) -> None:
        """Count one step as done."""
        self.done += 1
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.update()
        elif now - self.spoken > SILENCE:
            self.spoken = now
            print(f"jaxem: {self.done} of {self.total} done after {now - self.begun:.0f} s", file=sys.stderr)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()
