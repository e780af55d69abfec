"""What was found, for people (a table, a figure) and for programs (JSON)."""

import json
import math

RIVALS = ("scikit-learn", "gmmx", "hmmlearn", "plain EM")
RULES = (
    "Less is better. Contestants take turns, the least of several rounds counts; same data, start, dtype and steps.\n"
    "'x' columns: how many times longer (or larger) than jaxem. 'plain EM': jaxem's own, where 'jaxem' is SQUAREM.\n"
    "'floors': jaxem in units of the two bare matrix products of one EM step, in their best layout, timed in the same\n"
    "run. '-': no such figure.\n"
    "'nan': not to be told from noise."
)


def table(records):
    """The records [dict] as text."""
    header = ["question", "problem", "jaxem", *RIVALS, "floor", *(f"x {name}" for name in RIVALS), "floors", "target"]
    rows = [header] + [_row(record) for record in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", RULES])


def _row(record):
    values, unit = record["values"], record["unit"]
    ours = values["jaxem"]
    cells = [record["question"], record["problem"]]
    cells += [_quantity(values.get(name), unit) for name in ("jaxem", *RIVALS, "floor")]
    cells += [f"{values[name] / ours:.1f}" if name in values else "-" for name in RIVALS]
    cells += [f"{ours / values['floor']:.2f}" if "floor" in values else "-"]
    return [*cells, "; ".join(_target(target) for target in record["targets"]) or "-"]


def _quantity(value, unit):
    if value is None:
        return "-"
    if math.isnan(value):
        return "nan"
    if unit == "relative":
        return f"{value:.0e}"
    if unit != "s":
        return f"{value:.2f} {unit}"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _target(target):
    sign = ">=" if target["sense"] == "at least" else "<="
    return f"{target['against']} {sign} {target['factor']:g}: {'met' if target['met'] else 'MISSED'}"


def write_json(report, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(report), indent=1, allow_nan=False) + "\n")


def _without_nan(node):
    """JSON has no NaN: a figure that could not be told from noise is null."""
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and math.isnan(node) else node


def draw_scaling(report, path):
    """Time per iteration against what grows, with lines of slope 1."""
    import matplotlib
    import matplotlib.ticker

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [record for record in report["records"] if record["question"] == "scaling"]
    if not records:
        return
    figure, axes = plt.subplots(1, len(records), figsize=(3.2 * len(records), 3), layout="constrained", squeeze=False)
    for axis, record in zip(axes[0], records, strict=True):
        sizes, times = zip(*((int(size), t) for size, t in record["notes"]["seconds_per_step"].items()), strict=True)
        axis.loglog(sizes, times, "o-", color="#30638e")
        axis.loglog(sizes, [times[-1] * size / sizes[-1] for size in sizes], ":", color="black")
        axis.set_xticks(sizes, [f"{size:,}" if size < 10_000 else f"{size / 1_000:g}k" for size in sizes], minor=False)
        axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{1e3 * value:g}"))
        axis.yaxis.set_minor_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{1e3 * value:.2g}"))
        axis.tick_params(labelsize=7, which="both")
        axis.set_xlabel(record["notes"]["grows"])
        axis.set_title(f"slope {record['values']['jaxem']:.2f}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("ms per iteration (dotted: linear)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw(report, path):
    """The ratios as a figure: to the right of the line at 1, jaxem is faster (or smaller)."""
    import matplotlib
    import matplotlib.ticker

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {
        "scikit-learn": ("o", "#d1495b"),
        "gmmx": ("s", "#edae49"),
        "hmmlearn": ("D", "#66a182"),
        "plain EM": ("v", "#8d96a3"),
        "floor": ("|", "#30638e"),
    }
    records = [record for record in report["records"] if styles.keys() & record["values"].keys()][::-1]
    if not records:
        return
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.42 * len(records)), layout="constrained")
    for name, (marker, colour) in styles.items():
        points = [(r["values"].get(name, math.nan) / r["values"]["jaxem"], y) for y, r in enumerate(records)]
        points = [(ratio, height) for ratio, height in points if math.isfinite(ratio)]
        if not points:
            continue
        label = "floor: the two bare matrix products" if name == "floor" else name
        ratios, heights = zip(*points, strict=True)
        size = {"s": 120, "linewidths": 2.5} if marker == "|" else {"s": 45, "edgecolors": "white"}
        axes.scatter(ratios, heights, marker=marker, color=colour, label=label, zorder=3, **size)
        for ratio, height in points:
            text = f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
            offset = (0, 8) if marker == "|" else (0, 7)
            axes.annotate(
                text, (ratio, height), offset, textcoords="offset points", fontsize=8, ha="center", color=colour
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.annotate("jaxem", (1, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_yticks(range(len(records)), [f"{r['question']}\n{r['problem']}" for r in records], fontsize=8)
    axes.set_ylim(-0.6, len(records) - 0.3)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel("time (or memory) in multiples of jaxem's")
    axes.spines[["top", "right", "left"]].set_visible(False)
    machine = report["machine"]
    kind, _, device = machine["jax_device"].partition(": ")
    where = f"{machine['cpu']}, {machine['cores']} cores" if kind == "cpu" else device
    axes.set_title(f"{where}, {report['date']}", fontsize=9, loc="right", pad=16)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
