"""Published figures beside measured ones: what was measured, and whether it agrees."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from experiments.errors import UserError
from experiments.published import Published
from experiments.runs import Run

HEADINGS = ("row", "published", "measured", "seeds", "difference", "within tolerance")


class Comparison(NamedTuple):
    """A published figure and what was measured.

    Attributes:
      published: the published figure.
      runs: by seed the run as it lies on the disk, None where there is none.
      not_run: why the row was not run; empty if it was.
    """

    published: Published
    runs: Mapping[int, Run | None]
    not_run: str = ""

    @property
    def values(self) -> dict[int, float]:
        """The measured number of each finished run, by seed."""
        return {
            seed: _measured(self.published, run)
            for seed, run in self.runs.items()
            if run is not None and run.state == "finished"
        }

    @property
    def mean(self) -> float:
        """The mean over the finished runs, NaN if there are none."""
        return float(np.mean(list(self.values.values()))) if self.values else float("nan")

    @property
    def deviation(self) -> float:
        """Their standard deviation as a sample, NaN for fewer than two."""
        values = list(self.values.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    @property
    def difference(self) -> float:
        """Measured minus published; NaN where either is missing."""
        value = self.published.value
        return float("nan") if value is None else self.mean - value

    @property
    def verdict(self) -> str:
        """Whether what was measured agrees with what was published, in a few words."""
        failed = sum(run is not None and run.state == "failed" for run in self.runs.values())
        if self.values:
            missing = [f"{failed} failed"] if failed else []
            unfinished = len(self.runs) - len(self.values) - failed
            missing += [f"{unfinished} not finished"] if unfinished else []
            of = f" ({', '.join(missing)} of {len(self.runs)} runs)" if missing else ""
            return judged(self.published, self.mean) + of
        if failed:
            return "failed"
        return f"not run: {self.not_run}" if self.not_run else "not finished"


def _measured(published: Published, run: Run) -> float:
    try:
        return float(published.measure(run.summary or {}))
    except Exception as error:
        raise UserError(
            f"{published.row}: what it measures is not in {run.path / 'summary.json'}: "
            f"{type(error).__name__}: {error}"
        ) from error


def judged(published: Published, mean: float) -> str:
    """Returns whether a measured mean agrees with a published figure.

    Args:
      published: the figure.
      mean: the measured mean.

    Returns:
      ``yes``, ``no``, or ``better`` if it misses the tolerance on the good side; for a claim
      without a figure ``holds`` or ``does not hold``.

    Example:
      >>> row = Published('row', len, '% error', 'Table 1', value=1.6, tolerance=0.3)
      >>> judged(row, 1.9), judged(row, 2.0), judged(row, 1.0)
      ('yes', 'no', 'better')
    """
    if published.value is None:
        return "holds" if published.low <= mean <= published.high else "does not hold"
    excess = mean - published.value
    slack = 1e-9 * max(1.0, abs(published.value))  # the decimal 1.9 - 1.6 exceeds 0.3
    if abs(excess) <= (published.tolerance or 0.0) + slack:
        return "yes"
    return "better" if (excess < 0 if published.lower_is_better else excess > 0) else "no"


def cells(comparison: Comparison) -> tuple[str, ...]:
    """Returns the texts of a row of the table, in the order of `HEADINGS`."""
    row, values = comparison.published, comparison.values
    deviation = f" ± {comparison.deviation:.2f}" if len(values) > 1 else ""
    judgeable = values and row.value is not None
    return (
        row.row,
        claimed(row),
        f"{comparison.mean:.2f}{deviation}" if values else "",
        str(len(values)),
        f"{comparison.difference:+.2f}" if judgeable else "",
        comparison.verdict + (f" (±{row.tolerance:g})" if judgeable else ""),
    )


def claimed(row: Published) -> str:
    """Returns what a paper says: its figure, or its claim.

    Example:
      >>> claimed(Published('row', len, '% error', 'Table 1', value=1.6, tolerance=0.3))
      '1.6 % error'
    """
    return row.claim if row.value is None else f"{row.value:g} {row.unit}"


def table(title: str, comparisons: Sequence[Comparison]) -> Table:
    """Returns the table of published and measured figures for a terminal."""
    shown = Table(*HEADINGS, title=title, title_justify="left", box=box.HORIZONTALS)
    for comparison in comparisons:
        shown.add_row(*map(Text, cells(comparison)))
    return shown
