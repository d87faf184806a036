"""Pictures of what pruning more and more does to a network."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.figures import _COLOURS, _INK, _plain


def against_sparsity(
    title: str,
    heading: str,
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    dashed: Collection[str] = (),
    lowest: float | None = None,
) -> Figure:
    """Draws a measure against the share of the weights that are pruned.

    Lines are means over the runs, bands a sample standard deviation to each side.

    Args:
      title: what the figure shows.
      heading: what is measured, with its unit.
      series: name -> sparsity, in [0, 1] -> the values of its runs; at most seven.
      dashed: the names of the series with dashed lines.
      lowest: where the vertical axis ends; what lies below is not shown. None for no such end.

    Returns:
      The figure.

    Raises:
      ValueError: if there are too many series to tell them apart, or none.

    Example:
      >>> against_sparsity("Pruned", "accuracy, %", {"L2": {0.5: [97, 98], 0.9: [95]}})
      <Figure size ...>
    """
    if not 1 <= len(series) <= len(_COLOURS):
        raise ValueError(f"such a figure takes 1 to {len(_COLOURS)} series; got {len(series)}")
    figure = Figure(figsize=(8.4, 5.2), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(title, x=0.02, ha="left", color=_INK, fontsize=14, fontweight="bold")
    ax = figure.subplots()
    _plain(ax, heading)
    for (name, points), colour in zip(series.items(), _COLOURS, strict=False):
        x = sorted(points)
        mean = np.array([np.mean(points[s]) for s in x])
        sd = np.array([np.std(points[s], ddof=1) if len(points[s]) > 1 else 0.0 for s in x])
        ax.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
        style = "--" if name in dashed else "-"
        ax.plot(x, mean, style, color=colour, label=name, linewidth=2, marker="o", ms=4)
    if lowest is not None:
        ax.set_ylim(bottom=lowest)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.set_xlabel("weights pruned", color=_INK)
    ax.grid(axis="y", color="#e4e6ea")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#a9aeb6")
    ax.legend(loc="lower left", frameon=False, labelcolor="linecolor", fontsize=11)
    return figure
