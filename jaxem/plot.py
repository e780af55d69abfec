"""Figures of fits; they need the extra `plot`.

Every function takes the Axes to draw on (`ax=None` makes one) and returns them. The colours are
those of Okabe and Ito, which people with any colour vision can tell apart; lines also differ by
marker or dash.
"""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from jaxem.engine.result import PROPER, Result, Status
from jaxem.families.gaussian import GaussianParams
from jaxem.fitting.restarts import optima as _optima

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6B6B6B"

#: Ellipses are drawn at these numbers of standard deviations.
LEVELS = (1, 2)


def _axes(ax, size=(6.0, 4.2)):
    if ax is None:
        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _color(j):
    return COLORS[j % len(COLORS)]


# --- densities ------------------------------------------------------------------------------------


def density(
    model: Any,
    params: Any,
    x: Any = None,
    *,
    dims: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    bins: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw a Gaussian mixture and its data.

    In one dimension these are curves and a histogram, in two dimensions ellipses and points.

    Args:
        model: a Gaussian mixture.
        params: its params.
        x: rows [n, d]; points are coloured by their most probable component. None draws no data.
        dims: one or two columns to draw, by default the first two. The density is the marginal one
            of these columns.
        names: the labels of all d columns, with units.
        bins: the number of bins of the histogram.
        ax: the Axes, or None for new ones.

    Raises:
        ValueError: the params are not those of a Gaussian mixture, or `dims` or `names` do not fit
            the columns.
    """
    means, covs, weights = _moments(model, params)
    d = means.shape[1]
    shown = tuple(range(min(d, 2))) if dims is None else tuple(np.atleast_1d(dims).tolist())
    if not 1 <= len(shown) <= 2 or not all(isinstance(j, int) and 0 <= j < d for j in shown):
        raise ValueError(f"dims: expected one or two columns out of 0 to {d - 1}; got {shown}")
    names = [f"x[{j}]" for j in range(d)] if names is None else names
    if len(names) != d:
        raise ValueError(f"names: expected one for each of {d} columns; got {len(names)}")
    covs, labels = covs[:, shown][:, :, shown], [names[j] for j in shown]
    rows = None if x is None else np.asarray(x)[:, shown]
    if len(shown) == 1:
        return _curves(means[:, shown[0]], covs[:, 0, 0], weights, rows, labels[0], bins, _axes(ax))
    member = None if x is None else np.asarray(model.predict(params, x))
    return _ellipses(means[:, shown], covs, weights, rows, member, labels, _axes(ax))


def _moments(model, params):
    """(means [k, d], covariances [k, d, d], weights [k]) for any covariance structure."""
    components = getattr(params, "components", None)
    if not isinstance(components, GaussianParams):
        raise ValueError(f"params: expected those of a Gaussian mixture; got {type(params).__name__}")
    means, cov = np.asarray(components.mean), np.asarray(components.cov)
    k, d = means.shape
    shape = model.component.shape
    if shape == "spherical":
        cov = cov[..., None] * np.ones(d)
    if shape != "full":
        cov = cov[..., None] * np.eye(d)
    return means, np.broadcast_to(cov, (k, d, d)), np.asarray(params.weights)


def _curves(means, variances, weights, rows, label, bins, ax):
    reach = 3.5 * np.sqrt(variances)
    low, high = (means - reach).min(), (means + reach).max()
    if rows is not None:
        values = rows[np.isfinite(rows)]
        # Wide components are cut off a little outside the data, so that the data fill the picture.
        margin = 0.15 * (values.max() - values.min())
        low, high = max(low, values.min() - margin), min(high, values.max() + margin)
        ax.hist(values, bins=bins, density=True, color="#DDDDDD", edgecolor="white", label=f"{len(values):,} rows")
    grid = np.linspace(low, high, 600)
    each = weights * np.exp(-0.5 * (grid[:, None] - means) ** 2 / variances) / np.sqrt(2 * np.pi * variances)
    for j in range(len(means)):
        ax.fill_between(grid, each[:, j], color=_color(j), alpha=0.15, lw=0)
        ax.plot(grid, each[:, j], color=_color(j), lw=1.3, label=f"component {j + 1} ({weights[j]:.0%})")
    ax.plot(grid, each.sum(1), color="black", lw=1.8, label="mixture")
    unit = label[label.index("(") + 1 : -1] if "(" in label and label.endswith(")") else None
    ylabel = f"density (1 / {unit})" if unit else "density"
    ax.set(xlabel=label, ylabel=ylabel, xlim=(low, high), ylim=(0, None))
    ax.legend(frameon=False, fontsize="small")
    return ax


def _ellipses(means, covs, weights, rows, member, labels, ax):
    if rows is not None:
        seen = np.isfinite(rows).all(1)
        size = float(np.clip(6000 / max(seen.sum(), 1), 2, 22))
        for j in range(len(means)):
            own = rows[seen & (member == j)]
            mark = MARKERS[j % len(MARKERS)]
            ax.scatter(*own.T, s=size, marker=mark, color=_color(j), alpha=0.55, lw=0, rasterized=len(own) > 5000)
    for j, (mean, cov) in enumerate(zip(means, covs, strict=True)):
        for level in LEVELS:
            ax.add_patch(_ellipse(mean, cov, level, _color(j)))
        ax.plot(*mean, marker="+", ms=11, mew=2.2, color="black", zorder=5)
    handles = [
        Line2D([], [], ls="", marker=MARKERS[j % len(MARKERS)], color=_color(j), label=f"component {j + 1} ({w:.0%})")
        for j, w in enumerate(weights)
    ]
    handles.append(Line2D([], [], color=GREY, lw=1.4, label="1 and 2 standard deviations"))
    ax.legend(handles=handles, fontsize="small", framealpha=0.8, edgecolor="none")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.autoscale_view()
    return ax


def _ellipse(mean, cov, level, color):
    values, vectors = np.linalg.eigh(cov)
    width, height = 2 * level * np.sqrt(np.maximum(values, 0))
    angle = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
    face = to_rgba(color, 0.10 if level == LEVELS[0] else 0.05)
    return Ellipse(mean, width, height, angle=angle, facecolor=face, edgecolor=color, lw=1.6)


# --- how fits went --------------------------------------------------------------------------------


def history(result: Result, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the objective after every step of one fit, or of many fits.

    Args:
        result: the result of one fit, or of many with a leading axis; the best one has a bold line.
        label: the label of the (best) fit.
        ax: the Axes, or None for new ones.
    """
    ax = _axes(ax)
    runs = np.atleast_2d(np.asarray(result.history, np.float64))
    scores = np.where(np.isin(np.atleast_1d(result.status), PROPER), np.atleast_1d(result.objective), -np.inf)
    best = int(np.argmax(scores))
    for r, run in enumerate(runs):
        if r != best:
            ax.plot(np.arange(1, len(run) + 1), run, color=GREY, alpha=0.35, lw=0.8)
    label = label or ("best" if len(runs) > 1 else None)
    ax.plot(np.arange(1, runs.shape[1] + 1), runs[best], color=COLORS[0], lw=2, label=label)
    longest = max(int(np.isfinite(runs).sum(1).max()), 2)
    ax.set(xlabel="step", ylabel="objective (nats)", xlim=(1, longest))
    if longest > 50:
        ax.set_xscale("log")
    if label:
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    return ax


def optima(fits: Result, *, max_optima: int = 8, ax: Axes | None = None) -> Axes:
    """Draw the optima that restarts reached, best first, and how many restarts reached each.

    Fits that collapsed or failed are hatched.

    Args:
        fits: a `Restarts`, or its `.all`.
        max_optima: the largest number of optima to draw.
        ax: the Axes, or None for new ones.
    """
    ax = _axes(ax)
    fits = getattr(fits, "all", fits)
    groups = _optima(fits)
    shown = groups[:max_optima]
    y = np.arange(len(shown))
    bad = [sum(n for status, n in group.statuses.items() if Status[status] not in PROPER) for group in shown]
    good = [group.n_restarts - b for group, b in zip(shown, bad, strict=True)]
    ax.barh(y, good, height=0.7, color=COLORS[0])
    if any(bad):
        ax.barh(y, bad, left=good, height=0.7, color="white", edgecolor=COLORS[4], hatch="////")
    for at, group in enumerate(shown):
        ax.text(group.n_restarts, at, f" {group.n_restarts}", va="center", fontsize="small", color=GREY)
    ax.set_yticks(y, [f"{group.objective:,.2f}" for group in shown])
    ax.invert_yaxis()
    total = sum(group.n_restarts for group in groups)
    rest = sum(group.n_restarts for group in groups[max_optima:])
    note = f"; {rest} more at {len(groups) - max_optima} lower ones" if rest else ""
    note += "; hatched: collapsed or failed" if any(bad) else ""
    ax.set(xlabel=f"restarts (of {total}{note})", ylabel="objective (nats)")
    ax.set_xlim(0, 1.12 * max(group.n_restarts for group in shown))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


# --- choices --------------------------------------------------------------------------------------


def criterion(candidates: Any, *, by: str = "bic", ax: Axes | None = None) -> Axes:
    """Draw a criterion by the number of components, with a line for each kind of model.

    The smallest value has a ring. Candidates without a proper fit are left out.

    Args:
        candidates: what `jaxem.select` returned.
        by: "aic", "bic" or "icl".
        ax: the Axes, or None for new ones.

    Raises:
        ValueError: no candidate has a proper fit.
    """
    ax = _axes(ax)
    proper = [c for c in candidates if c.proper]
    if not proper:
        raise ValueError("candidates: expected at least one with a proper fit; got none")
    kinds = {}
    for c in sorted(proper, key=lambda c: c.model.n_components):
        kinds.setdefault(_kind(c.model), []).append((c.model.n_components, getattr(c, by)))
    best = min(proper, key=lambda c: getattr(c, by))
    at = (best.model.n_components, getattr(best, by))
    _focus(ax, [getattr(c, by) for c in proper], at[1])
    for j, (kind, points) in enumerate(kinds.items()):
        above = min(value for _, value in points) > ax.get_ylim()[1]
        label = f"{kind} (off the scale)" if above else kind
        ax.plot(*np.transpose(points), label=label, color=_color(j), marker=MARKERS[j % len(MARKERS)], ms=6, lw=1.5)
    ax.plot(*at, "o", ms=15, mfc="none", mec="black", mew=1.5)
    ax.annotate(f"{at[1]:,.1f}", at, xytext=(0, -12), textcoords="offset points", ha="center", va="top")
    ax.set(xlabel="number of components", ylabel=f"{by.upper()} (smaller is better)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "covariance" if hasattr(getattr(best.model, "component", None), "covariance") else None
    ax.legend(fontsize="small", framealpha=0.8, edgecolor="none", title=title)
    return ax


def _kind(model):
    component = getattr(model, "component", model)
    return getattr(component, "covariance", type(component).__name__)


def _focus(ax, values, best):
    """Set the range of y without values far worse than most, which would hide small differences."""
    reach = 3.5 * (np.median(values) - best)
    if reach > 0 and max(values) > best + 2 * reach:
        ax.set_ylim(best - 0.22 * reach, best + reach)
    else:
        low, high = min(values), max(values)
        ax.set_ylim(low - 0.18 * (high - low or 1), high + 0.08 * (high - low or 1))


def comparison(compared: Any, *, against: str = "evaluations", ax: Axes | None = None) -> Axes:
    """Draw how far each algorithm is below the best objective, by evaluations or by seconds.

    Lines are medians over the starts, and bands are quartiles.

    Args:
        compared: what `jaxem.compare_algorithms` returned.
        against: "evaluations" or "seconds".
        ax: the Axes, or None for new ones.

    Raises:
        ValueError: `against` is something else.
    """
    if against not in ("evaluations", "seconds"):
        raise ValueError(f"against: expected 'evaluations' or 'seconds'; got {against!r}")
    ax = _axes(ax)
    dashes = ("-", "--", "-.", ":")
    for j, trace in enumerate(compared.traces):
        usable = np.isfinite(trace.objective).any(1)
        if not usable.any():
            continue
        x = (np.median(trace.evaluations, 1) if against == "evaluations" else trace.seconds)[usable]
        gap = np.maximum(compared.best - trace.objective[usable], SMALLEST_GAP)
        low, middle, high = np.nanquantile(gap, (0.25, 0.5, 0.75), axis=1)
        ax.fill_between(x, low, high, color=_color(j), alpha=0.12, lw=0)
        ax.plot(x, middle, dashes[j % len(dashes)], color=_color(j), lw=2, label=trace.name)
        ax.plot(x[-1], middle[-1], MARKERS[j % len(MARKERS)], color=_color(j))
    ax.set(xscale="log", yscale="log", ylabel="nats below the best (median, quartiles)")
    n_starts = compared.traces[0].objective.shape[1]
    passes, seconds = "passes over the data", f"seconds for {n_starts} starts, without compiling"
    ax.set_xlabel(passes if against == "evaluations" else seconds)
    ax.legend(frameon=False, fontsize="small")
    return ax


#: Smaller gaps, in nats, are drawn as gaps of this size, which is far below what could matter.
SMALLEST_GAP = 1e-6
