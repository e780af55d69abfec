"""The report of the program: text for the terminal, and one picture."""

from typing import Any

import numpy as np

from jaxem.engine.result import PROPER, Status
from jaxem.families.gaussian import GaussianParams
from jaxem.fitting.restarts import optima

#: The head of the table of models, and the explanation of its columns.
CANDIDATE_HEAD = (
    f"{'covariance':<12}{'k':>3}{'params':>8}{'log-lik':>14}{'AIC':>12}{'BIC':>12}{'ICL':>12}  restarts there"
)
CANDIDATE_KEY = (
    "log-lik: the best restart's, in nats; AIC, BIC, ICL: -2 log-lik + penalty, small is good;\n"
    "restarts there: so many ended at that optimum"
)

#: How many models are listed, and how many optima of the chosen one.
SHOWN = 5

#: Covariance matrices with more columns than this are not printed.
MAX_PRINTED = 6


def candidate_row(c: Any) -> str:
    """The line of one candidate in the table of models."""
    scores = "".join(f"{value:>12.2f}" for value in (c.aic, c.bic, c.icl))
    note = f"{c.n_reached} of {len(np.asarray(c.restarts.all.status))}"
    if not c.proper:
        note = f"none: {Status(int(c.best.status)).name.lower()}"
    head = f"{c.model.component.covariance:<12}{c.model.n_components:>3}{c.n_free_params:>8}"
    return f"{head}{float(c.best.log_lik):>14.3f}{scores}  {note}"


def choice(candidates: Any, params: Any, names: list[str]) -> str:
    """The text about the chosen model.

    Args:
        candidates: the candidates, ranked by BIC.
        params: the params of the chosen model, as they are to be shown.
        names: the names of the columns.
    """
    chosen = candidates[0]
    best = ", ".join(f"{_short(c.model)} ({c.bic:.2f})" for c in candidates[:SHOWN] if c.proper)
    lines = [
        f"\nSmallest BIC: {best}",
        f"Chosen: {name_of(chosen.model)}. {chosen.best.message.split(': ', 1)[1].capitalize()}.\n",
        parameters(chosen.model, params, names),
        f"\n{spread(chosen.restarts.all)}",
    ]
    return "\n".join(lines)


def name_of(model: Any) -> str:
    """A model in words: its covariance structure and its number of components."""
    return f"{model.component.covariance} covariance, k = {model.n_components}"


def _short(model) -> str:
    return f"{model.component.covariance} {model.n_components}"


def parameters(model: Any, params: Any, names: list[str]) -> str:
    """A table of weights, means and covariances, in the data's units.

    Args:
        model: a Gaussian mixture.
        params: its params.
        names: the names of the columns.
    """
    means, cov = np.asarray(params.components.mean), np.asarray(params.components.cov)
    width = max(14, *(len(name) + 2 for name in names))
    head = f"{'component':<12}{'weight':>8}" + "".join(f"{name:>{width}}" for name in names)
    lines = [head]
    for j, weight in enumerate(np.asarray(params.weights)):
        lines.append(f"{f'{j + 1} mean':<12}{weight:>8.4f}" + "".join(f"{m:>{width}.6g}" for m in means[j]))
    shared, shape = model.component.shared, model.component.shape
    for j in range(1 if shared else len(means)):
        own = cov if shared else cov[j]
        label = "all" if shared else f"{j + 1}"
        if shape != "full":
            deviations = np.broadcast_to(np.sqrt(own), len(names))
            lines.append(f"{f'{label} sd':<20}" + "".join(f"{s:>{width}.6g}" for s in deviations))
        elif len(names) <= MAX_PRINTED:
            for i, row in enumerate(own):
                title = f"{label} covariance" if i == 0 else ""
                lines.append(f"{title:<20}" + "".join(f"{value:>{width}.6g}" for value in row))
        else:
            lines.append(f"{f'{label} sd':<20}" + "".join(f"{s:>{width}.6g}" for s in np.sqrt(np.diagonal(own))))
    return "\n".join(lines)


def spread(fits: Any) -> str:
    """The line on how many restarts reached which optimum, best first, and how many failed."""
    proper, improper = [], 0
    for group in optima(fits):
        good = sum(n for status, n in group.statuses.items() if Status[status] in PROPER)
        improper += group.n_restarts - good
        if good:
            proper.append((good, group.objective))
    total = len(np.asarray(fits.status))
    text = [f"{n} at {objective:.3f}" for n, objective in proper[:SHOWN]]
    if proper[SHOWN:]:
        text.append(f"{sum(n for n, _ in proper[SHOWN:])} at {len(proper) - SHOWN} lower ones")
    if improper:
        text.append(f"{improper} collapsed or failed")
    return f"Log-likelihood reached by {total} restarts: " + ", ".join(text)


def heaviest_first(model: Any, params: Any) -> Any:
    """The params with the components in the order of their weights, the largest first."""
    return model.permute(params, np.argsort(-np.asarray(params.weights), kind="stable"))


def telling_columns(params: Any, x: Any) -> Any:
    """The indices of the two columns with the largest share of variance between components.

    If there are at most two columns, these are all of them.
    """
    x = np.asarray(x)
    if x.shape[1] <= 2:
        return tuple(range(x.shape[1]))
    components: GaussianParams = params.components
    weights, means = np.asarray(params.weights), np.asarray(components.mean)
    share = weights @ (means - weights @ means) ** 2 / x.var(0)
    return tuple(sorted(np.argsort(-share, kind="stable")[:2].tolist()))


def figure(x: Any, names: list[str], candidates: Any, params: Any, compared: Any, title: str) -> Any:
    """The figure: the chosen density, BIC, the restarts, and EM against gradient ascent.

    Args:
        x: rows [n, d].
        names: the names of the columns.
        candidates: the candidates, ranked by BIC.
        params: the params of the chosen model, as they are to be shown.
        compared: the `Comparison` of algorithms.
        title: the title of the data.
    """
    import matplotlib.pyplot as plt

    from jaxem import plot

    chosen = candidates[0]
    fig = plt.figure(figsize=(16, 8), layout="constrained")
    grid = fig.add_gridspec(2, 4)
    main = fig.add_subplot(grid[:, :2])
    plot.density(chosen.model, params, x, dims=telling_columns(params, x), names=names, ax=main)
    k = chosen.model.n_components
    main.set_title(f"{title}: {k} component{'s' if k > 1 else ''}, {chosen.model.component.covariance} covariance")
    plot.criterion(candidates, ax=fig.add_subplot(grid[0, 2])).set_title("Choice of model")
    plot.optima(chosen.restarts, ax=fig.add_subplot(grid[0, 3])).set_title("Optima the restarts reached")
    for column, against in enumerate(("evaluations", "seconds")):
        ax = plot.comparison(compared, against=against, ax=fig.add_subplot(grid[1, 2 + column]))
        ax.set_title("EM against gradient ascent")
    return fig
