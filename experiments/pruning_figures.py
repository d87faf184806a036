"""Pictures of what pruning more and more does to a network."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.figures import COLOURS, INK, frame, mean_and_sd, plain


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
    if not 1 <= len(series) <= len(COLOURS):
        raise ValueError(f"such a figure takes 1 to {len(COLOURS)} series; got {len(series)}")
    figure = Figure(figsize=(8.4, 5.2), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=14, fontweight="bold")
    ax = figure.subplots()
    plain(ax, heading)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        x = sorted(points)
        mean, sd = np.transpose([mean_and_sd(points[s]) for s in x])
        ax.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
        style = "--" if name in dashed else "-"
        ax.plot(x, mean, style, color=colour, label=name, linewidth=2, marker="o", ms=4)
    if lowest is not None:
        ax.set_ylim(bottom=lowest)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.set_xlabel("weights pruned", color=INK)
    frame(ax)
    ax.legend(loc="lower left", frameon=False, labelcolor="linecolor", fontsize=11)
    return figure
