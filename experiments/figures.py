"""Tables and pictures of finished runs, from plain data."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from rich import box
from rich.table import Table

Pair = tuple[float, float]
"""A number of the network, and the same number of its dense counterpart."""


class Result(NamedTuple):
    """What one run came to.

    Attributes:
      name: how the run is called.
      accuracy: share of the test examples that are classified correctly.
      weights: path of a masked layer -> (kept entries, all entries). A dense run has none.
      forward: FLOPs of a forward pass of one example.
      training: mean FLOPs of a training step for one example.
      nbytes: bytes of the parameters.
    """

    name: str
    accuracy: float
    weights: Mapping[str, tuple[int, int]]
    forward: Pair
    training: Pair
    nbytes: Pair


class Curve(NamedTuple):
    """A run over time.

    Attributes:
      name: how the run is called.
      steps: the steps at which it was evaluated, ascending.
      accuracy: accuracy there, in [0, 1].
      sparsity: share of the weights that are zero there, in [0, 1].
    """

    name: str
    steps: Sequence[int]
    accuracy: Sequence[float]
    sparsity: Sequence[float]


def table(results: Sequence[Result]) -> Table:
    """Returns the table of several runs, a column each, with their ratios to the dense network.

    Args:
      results: the runs. A layer that some run masks has its row; where another run does not mask
        it, all its weights are kept.

    Returns:
      What `rich.print` shows.

    Example:
      >>> import rich
      >>> rich.print(table([
      ...     Result("dense", 0.97, {}, (40, 40), (120, 120), (96, 96)),
      ...     Result("RigL", 0.96, {"kernel": (5, 20)}, (10, 40), (30, 120), (39, 96)),
      ... ]))
                             dense              RigL
      ───...
      test accuracy         97.00%            96.00%
      <BLANKLINE>
      kept weights              20   100.0%        5   25.0%
        kernel                  20   100.0%        5   25.0%
      <BLANKLINE>
      FLOPs of an example       40   100.0%       10   25.0%
        in training            120   100.0%       30   25.0%
      bytes                     96   100.0%       39   40.6%
      <BLANKLINE>
    """
    totals = {path: total for run in results for path, (_, total) in run.weights.items()}
    layers = [{path: (n, n) for path, n in totals.items()} | dict(run.weights) for run in results]
    sums = [(sum(kept for kept, _ in layer.values()), sum(totals.values())) for layer in layers]

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    shown.add_column()
    for run in results:
        shown.add_column(run.name, justify="right")
        shown.add_column(justify="right", style="dim")

    def add(label: str, pairs: Sequence[Pair], **options: Any) -> None:
        cells = [(f"{n:,.0f}", f"{n / dense:.1%}" if dense else "") for n, dense in pairs]
        shown.add_row(label, *(text for cell in cells for text in cell), **options)

    accuracies = (text for run in results for text in (f"{run.accuracy:.2%}", ""))
    shown.add_row("test accuracy", *accuracies, end_section=True)
    if totals:
        add("kept weights", sums, style="bold")
    for path in totals:
        add(f"  {path}", [layer[path] for layer in layers], end_section=path == [*totals][-1])
    add("FLOPs of an example", [run.forward for run in results])
    add("  in training", [run.training for run in results])
    add("bytes", [run.nbytes for run in results])
    return shown


def connections_per_pixel(mask: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Counts the connections that a fully connected first layer keeps to each pixel.

    Args:
      mask: the layer's mask, bool ``[height * width * channels, units]``.
      image_shape: height, width and channels of its input.

    Returns:
      Whole numbers, ``[height, width]``, the channels added up.

    Raises:
      ValueError: if the mask is not that of a layer over such images.

    Example:
      >>> connections_per_pixel(np.array([[1, 0], [0, 0], [1, 1], [0, 1]], bool), (2, 2, 1))
      array([[1, 0],
             [2, 1]])
    """
    height, width, channels = image_shape
    if mask.ndim != 2 or mask.shape[0] != height * width * channels:
        raise ValueError(
            f"a mask of shape {mask.shape} is none of a fully connected layer over images of "
            f"shape {tuple(image_shape)}: it needs {height * width * channels} rows"
        )
    return mask.reshape(height, width, -1).sum(-1)


# Ink of text and axes; the colours that Okabe and Ito chose to be told apart by everyone.
INK = "#3c4048"
COLOURS = ("#56606b", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def picture(
    path: Path,
    title: str,
    curves: Sequence[Curve],
    images: Mapping[str, np.ndarray],
) -> None:
    """Draws runs over time, and beside them images of masks, all on one scale.

    Args:
      path: the file, of a type that matplotlib knows by its ending. It is written whole or not
        at all; its directory must exist.
      title: what the picture shows.
      curves: the runs, at most seven.
      images: heading -> ``[height, width]``, such as `connections_per_pixel`; at least one.

    Raises:
      ValueError: if there are too many runs to tell them apart, or no image.
    """
    if len(curves) > len(COLOURS) or not images:
        raise ValueError(
            f"a picture takes 1 to {len(COLOURS)} curves and at least one image; "
            f"got {len(curves)} and {len(images)}"
        )
    figure = Figure(figsize=(11, 5.8), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(title, x=0.012, ha="left", color=INK, fontsize=14, fontweight="bold")
    halves: Any = figure.subfigures(1, 2, width_ratios=(2, 1))
    top, bottom = halves[0].subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _lines(top, "accuracy on the validation examples", curves, [run.accuracy for run in curves])
    _lines(bottom, "sparsity", curves, [run.sparsity for run in curves])
    bottom.set_ylim(-0.05, 1.05)
    bottom.set_xlabel("training step", color=INK)
    top.legend(loc="lower right", frameon=False, labelcolor="linecolor", fontsize=11)

    axes = halves[1].subplots(len(images), 1, squeeze=False)[:, 0]
    most = max(1, *(image.max() for image in images.values()))
    for ax, (heading, image) in zip(axes, images.items(), strict=True):
        drawn = pixels(ax, heading, image, most)
    scale = halves[1].colorbar(drawn, ax=axes, shrink=0.5, aspect=25)
    scale.set_label("connections kept to a pixel", color=INK)
    scale.ax.tick_params(colors=INK, length=0)
    scale.outline.set_visible(False)

    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all.

    Args:
      figure: the figure.
      path: the file, of a type that matplotlib knows by its ending; its directory must exist.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format=path.suffix[1:])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def against_density(
    title: str,
    series: Mapping[str, Mapping[float, Sequence[float]]],
    dense: Sequence[float],
) -> Figure:
    """Draws the accuracy of sparse networks against their density, from dense to sparse.

    Lines are means, bands a sample standard deviation to each side.

    Args:
      title: what the figure shows.
      series: name -> density, in (0, 1] -> the accuracies of its runs, in [0, 1]; at most six.
      dense: the accuracies of the dense network's runs.

    Returns:
      The figure.

    Raises:
      ValueError: if there are too many series to tell them apart, or no run of the dense network.

    Example:
      >>> against_density("Pruned", {"magnitude": {0.5: [0.97, 0.98], 0.1: [0.95]}}, [0.98])
      <Figure size ...>
    """
    if len(series) >= len(COLOURS) or not dense:
        raise ValueError(
            f"such a figure takes at most {len(COLOURS) - 1} series and a run of the dense "
            f"network; got {len(series)} and {len(dense)}"
        )
    figure = Figure(figsize=(8.4, 5.2), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=14, fontweight="bold")
    ax = figure.subplots()
    plain(ax, "accuracy on the test examples")
    centre, spread = mean_and_sd(dense)
    ax.axhline(centre, color=COLOURS[0], linewidth=1.5, linestyle=(0, (5, 3)), label="dense")
    ax.axhspan(centre - spread, centre + spread, color=COLOURS[0], alpha=0.12, linewidth=0)
    for (name, points), colour in zip(series.items(), COLOURS[1:], strict=False):
        densities = sorted(points, reverse=True)
        means, sds = np.transpose([mean_and_sd(points[x]) for x in densities])
        ax.fill_between(densities, means - sds, means + sds, color=colour, alpha=0.18, linewidth=0)
        ax.plot(densities, means, color=colour, label=name, linewidth=2, marker="o", ms=4)
    ax.set_xscale("log")
    ax.set_xlim(1.06, 0.9 * min((x for points in series.values() for x in points), default=0.9))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.set_xlabel("weights kept", color=INK)
    frame(ax)
    ax.legend(loc="best", frameon=False, labelcolor="linecolor", fontsize=11)
    return figure


def _lines(
    ax: Axes, heading: str, curves: Sequence[Curve], values: Sequence[Sequence[float]]
) -> None:
    plain(ax, heading)
    for run, line, colour in zip(curves, values, COLOURS, strict=False):
        ax.plot(run.steps, line, color=colour, label=run.name, linewidth=2, marker="o", ms=3)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    frame(ax)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the sample standard deviation, 0 of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def frame(ax: Axes) -> None:
    """Leaves of the frame of a plot the lower edge, and draws lines at the heights of the ticks."""
    ax.grid(axis="y", color="#e4e6ea")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#a9aeb6")


def pixels(ax: Axes, heading: str, image: np.ndarray, most: float) -> Any:
    """Draws whole numbers as an image, 0 white and `most` dark; returns what a scale is made of."""
    plain(ax, heading)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    drawn = ax.imshow(image, cmap="Oranges", vmin=0, vmax=most)
    if max(image.shape) <= 10:  # few enough pixels to write the numbers into them
        for (row, column), count in np.ndenumerate(image):
            colour = "white" if count > 0.55 * most else INK
            ax.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=7)
    return drawn


def plain(ax: Axes, heading: str) -> None:
    """Gives axes a heading, and takes the marks from their ticks."""
    ax.set_title(heading, loc="left", color=INK, fontsize=11)
    ax.tick_params(colors=INK, length=0)
