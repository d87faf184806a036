"""The view of a sweep while it runs: a table of its runs in a terminal, else a line an event."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments import claims, records, worker

State = Literal["running", "waiting", "stopped", "finished", "failed"]

_STYLES = {"running": "bold", "finished": "green", "failed": "red"}


class Status(NamedTuple):
    """How far a run is.

    Attributes:
      state: running: a worker has it; stopped: one had it, and it will go on; failed: and given up.
      job: the name of the job that has it, if one does.
      step: the latest step in its metrics.
      steps: those of the whole run; None where a procedure has several stages.
      accuracy: the test accuracy of a finished run, else the latest validation accuracy.
      stage: of a procedure, the folder of the stage at hand.
      error: the last line of a failed run's traceback.
    """

    state: State
    job: str | None
    step: int
    steps: int | None
    accuracy: float | None
    stage: str
    error: str


def look(folder: Path, failures: int) -> Status:
    """Returns how far a run is.

    Args:
      folder: the run's folder.
      failures: how many failed attempts there may be before it is given up.

    Returns:
      Its status.
    """
    config = records.read_json(folder / "config.json")
    holder = claims.holder(folder)
    state: State = "waiting"
    error = ""
    if worker.is_finished(folder):
        state = "finished"
    elif holder is not None:
        state = "running"
    elif worker.is_given_up(folder, failures):
        state = "failed"
        path = folder / "error.txt"
        lines = path.read_text().strip().splitlines() if path.exists() else []
        error = lines[-1] if lines else ""
    elif claims.attempts(folder):
        state = "stopped"
    stage = _stage(folder) if config.get("procedure") else None
    accuracy = _accuracy(stage or folder, state == "finished")
    return Status(
        state,
        holder.job if holder else None,
        worker.step_of(stage or folder),
        config["steps"] if stage is None or state != "finished" else None,
        accuracy,
        stage.name if stage and state != "finished" else "",
        error,
    )


class Board:
    """Shows the runs of a sweep until it is closed.

    Args:
      names: what the runs are called.
      console: where to.
    """

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._names = names
        self._console = console
        self._states: list[State | None] = [None] * len(names)
        # Of each running run: the time and the step at which it was first seen since it was taken.
        self._seen: dict[int, tuple[float, int]] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        if self._live:
            self._live.start()

    def show(self, statuses: Sequence[Status]) -> None:
        """Shows how far the runs are, in the order of their names."""
        now = time.monotonic()
        for i, status in enumerate(statuses):
            if status.state != "running" or (i in self._seen and status.step < self._seen[i][1]):
                self._seen.pop(i, None)
            if status.state == "running":
                self._seen.setdefault(i, (now, status.step))
        if self._live:
            self._live.update(self._table(statuses, now), refresh=True)
        else:
            for i, status in enumerate(statuses):
                if status.state != self._states[i] and status.state != "waiting":
                    self.say(self._line(i, status))
        self._states = [status.state for status in statuses]

    def say(self, text: str) -> None:
        """Prints a line above the table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the table as it is."""
        if self._live:
            self._live.stop()

    def _line(self, i: int, status: Status) -> str:
        shown = status.state == "finished" and status.accuracy is not None
        result = f"  accuracy {status.accuracy:.2%}" if shown else ""
        return f"{status.state:<9} {self._names[i]}{result}  {status.error}".rstrip()

    def _table(self, statuses: Sequence[Status], now: float) -> Group:
        counts = dict.fromkeys(("finished", "running", "failed"), 0)
        for status in statuses:
            counts[status.state] = counts.get(status.state, 0) + 1
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "state", "step", "", "accuracy", "left"):
            right = heading in ("step", "accuracy", "left")
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        order = sorted(range(len(statuses)), key=lambda i: _ORDER[statuses[i].state])
        # What a terminal has no room for is left out, those that wait first.
        shown = set(order[: max(4, self._console.height - 4)])
        for i, status in enumerate(statuses):
            if i in shown:
                table.add_row(*self._cells(i, status, now))
        hidden = len(statuses) - len(shown)
        summary = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        more = f"; {hidden} more are not shown" if hidden else ""
        return Group(table, Text(f"{len(statuses)} runs: {summary}{more}", style="bold"))

    def _cells(self, i: int, status: Status, now: float) -> tuple[Any, ...]:
        steps = status.steps
        bar: Any = ""
        if status.state == "failed":
            bar = Text(status.error, style="red", overflow="ellipsis")
        elif steps:
            bar = ProgressBar(total=steps, completed=min(status.step, steps), width=16)
        step = f"{status.step:,}" + (f" of {steps:,}" if steps else "")
        return (
            Text(self._names[i], overflow="ellipsis"),
            Text(f"{status.state} {status.stage}".rstrip(), _STYLES.get(status.state, "")),
            step if status.step else "",
            bar,
            "" if status.accuracy is None else f"{status.accuracy:.2%}",
            self._left(i, status, now),
        )

    def _left(self, i: int, status: Status, now: float) -> str:
        """The remaining time, from the speed that was seen."""
        if i not in self._seen or status.steps is None or status.stage:
            return ""
        since, first = self._seen[i]
        if status.step <= first:
            return ""
        seconds = (status.steps - status.step) * (now - since) / (status.step - first)
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


_ORDER = {"running": 0, "failed": 1, "stopped": 2, "finished": 3, "waiting": 4}


def _stage(folder: Path) -> Path | None:
    """The folder of a procedure's stage that was written to last."""
    stages = [path.parent for path in folder.glob("*/metrics.jsonl")]
    return max(stages, key=lambda path: (path / "metrics.jsonl").stat().st_mtime, default=None)


def _accuracy(folder: Path, finished: bool) -> float | None:
    if finished and (folder / "summary.json").exists():
        accuracy = records.read_json(folder / "summary.json").get("test_accuracy")
    else:
        line = records.last_line(folder / "metrics.jsonl", kind="validation")
        accuracy = line["accuracy"] if line else None
    return accuracy if isinstance(accuracy, float) else None
