"""The table of a sweep: the accuracy of each method at each sparsity, over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from experiments import records, runs

_AMOUNTS = ("rule.sparsity", "rule.sparsity.final")


class Cell(NamedTuple):
    """What the runs of one method at one sparsity came to.

    Attributes:
      accuracies: the test accuracies of its finished runs, in percent.
      sparsities: the sparsities that they have in the end, in percent.
      runs: how many there are, finished or not.
    """

    accuracies: tuple[float, ...]
    sparsities: tuple[float, ...]
    runs: int


Standings = dict[str, dict[float | None, Cell]]
"""Method -> asked-for sparsity in percent, None of a method that is not asked for one -> cell."""


def standings(results: Sequence[runs.Run]) -> Standings:
    """Sorts runs by method and sparsity.

    A method is a rule with its arguments, but for the sparsity and what runs of the same method and
    sparsity differ in: the seed.

    Args:
      results: the runs of a sweep.

    Returns:
      The methods in the order of the runs, their sparsities ascending.
    """
    flats = [records.flat(run.config) for run in results]
    names = [str(flat.get("rule.name", flat.get("rule")) or "dense") for flat in flats]
    members: dict[str, dict[float | None, list[runs.Run]]] = {}
    for run, flat, name in zip(results, flats, names, strict=True):
        title = " ".join(
            [name, *_telling(flat, [f for f, n in zip(flats, names, strict=True) if n == name])]
        )
        members.setdefault(title, {}).setdefault(_asked(flat), []).append(run)
    return {
        title: {
            amount: _cell(group)
            for amount, group in sorted(of.items(), key=lambda item: item[0] or 0.0)
        }
        for title, of in members.items()
    }


def _asked(flat: Mapping[str, Any]) -> float | None:
    amounts = [flat[key] for key in _AMOUNTS if isinstance(flat.get(key), int | float)]
    return round(100 * amounts[0], 6) if amounts else None


def _telling(flat: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arguments that set a run apart from others of its rule, but for seed and sparsity."""
    keys = sorted(set().union(*others) - {*_AMOUNTS, "seed", "rule.seed"})
    return [
        f"{key.removeprefix('rule.')}={flat[key]}"
        for key in keys
        if key in flat and any(other.get(key) != flat[key] for other in others)
    ]


def _cell(group: Sequence[runs.Run]) -> Cell:
    # A procedure in stages has no accuracy of its own.
    summaries = [run.summary for run in group if run.summary and "test_accuracy" in run.summary]
    return Cell(
        tuple(100 * float(summary["test_accuracy"]) for summary in summaries),
        tuple(100 * float(summary["sparsity"]) for summary in summaries),
        len(group),
    )


def rows(found: Standings) -> tuple[list[str], list[list[str]]]:
    """Returns the table as texts: the headings, and a row for each method.

    Means are of the test accuracy in percent, with the sample standard deviation over the seeds. A
    method that is not asked for a sparsity shows the one that it has come to.

    Example:
      >>> rows({"dense": {None: Cell((98.0, 99.0), (0.0, 0.0), 2)},
      ...       "rigl": {90.0: Cell((97.5,), (90.0,), 3)}})
      (['method', '90 %', 'as it comes'], [['dense', '', '98.50 ± 0.71 at 0 %'],
       ['rigl', '97.50 (1 of 3)', '']])
    """
    amounts = sorted({amount for of in found.values() for amount in of if amount is not None})
    own = any(None in of for of in found.values())
    headings = ["method", *(f"{amount:g} %" for amount in amounts)] + ["as it comes"] * own
    columns: list[float | None] = [*amounts, *([None] if own else [])]
    return headings, [
        [title, *(_text(of.get(amount), amount) for amount in columns)]
        for title, of in found.items()
    ]


def _text(cell: Cell | None, amount: float | None) -> str:
    if cell is None:
        return ""
    if not cell.accuracies:
        return "not finished"
    text = f"{statistics.mean(cell.accuracies):.2f}"
    if len(cell.accuracies) > 1:
        text += f" ± {statistics.stdev(cell.accuracies):.2f}"
    if len(cell.accuracies) < cell.runs:
        text += f" ({len(cell.accuracies)} of {cell.runs})"
    reached = statistics.mean(cell.sparsities)
    if amount is None or abs(reached - amount) > 0.05:
        text += f" at {reached:.3g} %"
    return text


def table(found: Standings) -> Table:
    """Returns the table for a terminal."""
    headings, texts = rows(found)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "method" else "right")
    for row in texts:
        shown.add_row(*row)
    return shown
