"""What a search has found: its best trials, in a table, in a picture, and for a file of JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from rich import box
from rich.table import Table

from experiments import records
from experiments.figures import COLOURS, INK, frame, plain
from experiments.grid import Overrides

BEST = 5
"""How many of the most accurate trials are shown."""
COSTS = {"flops": "FLOPs of an example", "bytes": "bytes"}


class Goal(NamedTuple):
    """What a search is for.

    Attributes:
      objective: ``accuracy``: the best on the validation examples; ``pareto``: its front against a
        cost.
      cost: which: ``flops``, those of a forward pass, or ``bytes``. Where no front is searched for,
        it is only what is drawn.
      most_flops: the most FLOPs that a network may take, relative to the dense one; None for any.
      most_bytes: the most bytes, likewise.
    """

    objective: str
    cost: str
    most_flops: float | None = None
    most_bytes: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Cost -> the most of it."""
        limits = {"flops": self.most_flops, "bytes": self.most_bytes}
        return {cost: limit for cost, limit in limits.items() if limit is not None}


class Trial(NamedTuple):
    """What became of one trial.

    Attributes:
      number: its number, from 0.
      run: the name of its run's folder; trials of equal configurations have the same run.
      overrides: what it changes in the configuration.
      results: ``validation_accuracy``, ``test_accuracy``, ``sparsity``, and ``flops`` and ``bytes``
        relative to the dense network; empty if the run failed.
    """

    number: int
    run: str
    overrides: Overrides
    results: dict[str, float]


def best(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """Returns the best of some trials.

    Args:
      trials: the trials.
      goal: what they are for.

    Returns:
      Of those within the limits, one for each run: the front of accuracy and cost, the cheapest
      first; or the `BEST` most accurate, the best first, and of two as good the cheaper.

    Example:
      >>> results = [(0.9, 0.3), (0.8, 0.1), (0.7, 0.2)]
      >>> trials = [
      ...     Trial(i, f"run{i}", {}, {"validation_accuracy": accuracy, "flops": flops})
      ...     for i, (accuracy, flops) in enumerate(results)]
      >>> [trial.number for trial in best(trials, Goal("pareto", "flops"))]
      [1, 0]
      >>> [trial.number for trial in best(trials, Goal("accuracy", "flops", most_flops=0.2))]
      [1, 2]
    """
    within, _ = _by_limits(trials, goal)
    if goal.objective == "pareto":
        return _front(within, goal.cost)
    key = "validation_accuracy"
    order = sorted(within, key=lambda trial: (-trial.results[key], trial.results[goal.cost]))
    return order[:BEST]


def table(trials: Sequence[Trial]) -> Table:
    """Returns a table of finished trials.

    Example:
      >>> import rich
      >>> results = {"validation_accuracy": 0.97, "test_accuracy": 0.96, "sparsity": 0.9}
      >>> trial = Trial(3, "01ab", {"rule.sparsity": 0.9}, results | {"flops": 0.1, "bytes": 0.13})
      >>> rich.print(table([trial]))
      trial   validation     test   sparsity   FLOPs   bytes   parameters
      ───...
          3       97.00%   96.00%      90.0%   10.0%   13.0%   sparsity=0.9
      <BLANKLINE>
    """
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("trial", "validation", "test", "sparsity", "FLOPs", "bytes"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("parameters", overflow="fold")
    for trial in trials:
        chosen = {k.removeprefix("rule."): v for k, v in records.flat(trial.overrides).items()}
        shown.add_row(
            str(trial.number),
            *(f"{trial.results[key]:.2%}" for key in ("validation_accuracy", "test_accuracy")),
            *(f"{trial.results[key]:.1%}" for key in ("sparsity", "flops", "bytes")),
            "\n".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in chosen.items()
            ),
        )
    return shown


def content(trials: Sequence[Trial], goal: Goal) -> dict[str, Any]:
    """Returns what ``search.json`` holds: the goal, the best trials, and all."""
    return {
        "goal": goal._asdict(),
        "best": [trial._asdict() for trial in best(trials, goal)],
        "trials": [trial._asdict() for trial in trials],
    }


def figure(title: str, trials: Sequence[Trial], goal: Goal) -> Figure:
    """Draws the accuracy of the finished trials against what they cost, and their front.

    Args:
      title: what the figure shows.
      trials: the trials.
      goal: what they are for.

    Returns:
      The figure.
    """
    within, beyond = _by_limits(trials, goal)
    front = _front(within, goal.cost)
    drawn = Figure(figsize=(8.4, 5.2), dpi=150)
    drawn.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    drawn.suptitle(title, x=0.02, ha="left", color=INK, fontsize=14, fontweight="bold")
    ax = drawn.subplots()
    plain(ax, "accuracy on the validation examples")

    def add(trials: Sequence[Trial], style: str, **options: Any) -> None:
        x = [trial.results[goal.cost] for trial in trials]
        y = [trial.results["validation_accuracy"] for trial in trials]
        ax.plot(x, y, style, **options)

    grey = {"color": COLOURS[0], "alpha": 0.6, "ms": 5}
    if beyond:
        add(beyond, "x", label="beyond the limits", **grey)
    add([trial for trial in within if trial not in front], "o", label="trials", **grey)
    # For a cost between those of two networks of the front there is the cheaper one, and no better.
    orange = {"color": COLOURS[1], "linewidth": 2, "ms": 6}
    add(front, "o-", label="front", drawstyle="steps-post", **orange)
    if goal.cost in goal.limits:
        limit = goal.limits[goal.cost]
        ax.axvline(limit, color=COLOURS[0], linestyle=(0, (5, 3)), linewidth=1.5, label="limit")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    ax.set_xlabel(f"{COSTS[goal.cost]}, relative to the dense network", color=INK)
    frame(ax)
    ax.legend(loc="lower right", frameon=False, labelcolor="linecolor", fontsize=11)
    return drawn


def _front(trials: Sequence[Trial], cost: str) -> list[Trial]:
    """The trials that no other matches in accuracy and cost and beats in one, cheapest first."""
    found: list[tuple[float, float]] = []
    front = []
    for trial in sorted(trials, key=lambda trial: _point(trial, cost)):
        point = _point(trial, cost)
        # Those before it cost no more; the last of the front is the most accurate of them.
        if not found or point == found[-1] or point[1] < found[-1][1]:
            found.append(point)
            front.append(trial)
    return front


def _point(trial: Trial, cost: str) -> tuple[float, float]:
    """What is to be small."""
    return trial.results[cost], -trial.results["validation_accuracy"]


def _by_limits(trials: Sequence[Trial], goal: Goal) -> tuple[list[Trial], list[Trial]]:
    """Of the finished trials, the first of each run: those within the limits, and the others."""
    finished = {trial.run: trial for trial in reversed(trials) if trial.results}
    within: list[Trial] = []
    beyond: list[Trial] = []
    for trial in reversed(finished.values()):
        holds = all(trial.results[cost] <= limit for cost, limit in goal.limits.items())
        (within if holds else beyond).append(trial)
    return within, beyond
