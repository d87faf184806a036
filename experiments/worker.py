"""A worker of a sweep: takes one free run after the other and trains it, until none is left.

Workers know nothing of each other and need no server: what is to do lies in a file, what is done on
the disk, and `experiments.claims` sees to it that a run has one worker at a time. A launcher starts
them with `work`, in whatever process on whatever machine; where they are processes of this machine
by ``python -m experiments.worker ORDER``.
"""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from experiments import records
from experiments.claims import Claim, attempts

MOST_DEATHS = 3
"""Workers that may die over a run without bringing it forward, before it counts as failed."""


class Order(NamedTuple):
    """What a sweep asks of its workers, as it lies in a file of JSON.

    Attributes:
      root: the folder of the runs, absolute.
      tasks: the names of the runs, in groups that train together.
      failures: of each run, how many failed attempts there may be before it is given up.
      data_dir: where data sets lie, absolute.
    """

    root: str
    tasks: list[list[str]]
    failures: dict[str, int]
    data_dir: str

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.parent.mkdir(exist_ok=True)
        records.write_json(path, self._asdict())

    @classmethod
    def read(cls, path: Path) -> "Order":
        """Reads the file."""
        return cls(**records.read_json(path))


def stop_file(order: Path) -> Path:
    """Returns the file that asks the workers of an order to stop, by being there."""
    return order.with_suffix(".stop")


def is_finished(folder: Path) -> bool:
    """Whether a run has its result."""
    return (folder / "summary.json").exists()


def is_given_up(folder: Path, failures: int) -> bool:
    """Whether a run has failed so often that it is not tried again.

    Args:
      folder: the run's folder.
      failures: how many failed attempts there may be.
    """
    return sum(attempt.outcome == "failed" for attempt in attempts(folder)) >= failures


def step_of(folder: Path) -> int:
    """Returns the latest step in the metrics of a run, or of the stages in its folder, in sum."""
    return sum(
        int(line["step"])
        for path in [folder / "metrics.jsonl", *folder.glob("*/metrics.jsonl")]
        if (line := records.last_line(path)) is not None
    )


def work(order: Path, job: str, stopped: Callable[[], bool] = lambda: False) -> None:
    """Trains what is free of an order until nothing is, or until it is to stop.

    What goes wrong with a run is recorded in its ``error.txt``, and the others go on.

    Args:
      order: the file of the order.
      job: the name of this worker's job; several processes may have it one after the other.
      stopped: asked again and again; when it says True, the run at hand saves and the worker ends.
    """
    asked = Order.read(order)

    def stop() -> bool:
        return stopped() or stop_file(order).exists()

    some = True
    while some and not stop():
        some = False
        for names in asked.tasks:
            if stop():
                return
            folders = [Path(asked.root) / name for name in names]
            limits = [asked.failures[name] for name in names]
            with _taken(folders, limits, job) as claims:
                if claims:
                    some = True
                    _train(claims, Path(asked.data_dir), stop)


@contextlib.contextmanager
def _taken(folders: Sequence[Path], limits: Sequence[int], job: str) -> Iterator[dict[Path, Claim]]:
    """Those of some runs that are left to do, if all of them are free; else none."""
    claims: dict[Path, Claim] = {}
    try:
        for folder, failures in zip(folders, limits, strict=True):
            if is_finished(folder) or is_given_up(folder, failures):
                continue
            claim = Claim.take(folder, job, step_of(folder))
            if claim is None:
                _withdraw(claims)
                break
            claims[folder] = claim
            # Looked at again, now that nobody else can change it.
            if is_finished(folder) or is_given_up(folder, failures):
                claims.pop(folder).withdraw()
            elif _is_deadly(folder):
                message = (
                    f"{MOST_DEATHS} workers died over this run, after step {step_of(folder)}, "
                    "without a word: killed, out of memory, or crashed. The end of log.txt, and "
                    "the logs in the sweep's folder .workers/, may tell more.\n"
                )
                _record_failure(folder, message)
                claims.pop(folder).release("failed")
        yield claims
    finally:
        for claim in claims.values():
            claim.release("stopped")


def _withdraw(claims: dict[Path, Claim]) -> None:
    while claims:
        claims.popitem()[1].withdraw()


def _is_deadly(folder: Path) -> bool:
    """Whether the attempts before the present one all died at the step where they began."""
    *earlier, present = attempts(folder)
    last = earlier[-MOST_DEATHS:]
    return len(last) == MOST_DEATHS and all(
        attempt.outcome is None and attempt.step == present.step for attempt in last
    )


def _train(claims: dict[Path, Claim], data_dir: Path, stop: Callable[[], bool]) -> None:
    """Trains the runs that were taken, as a cohort if they are several, and releases them."""
    held = list(claims.values())

    def stop_all() -> bool:
        return stop() or not all(claim.held() for claim in held)

    if len(claims) > 1 and not _train_together(claims, data_dir, stop_all):
        return  # stopped
    # What is left is a run alone, or a cohort that failed, perhaps by the fault of one run.
    for folder in list(claims):
        if not stop_all():
            _train_alone(folder, claims, data_dir, stop_all)


def _train_together(claims: dict[Path, Claim], data_dir: Path, stop: Callable[[], bool]) -> bool:
    """Trains a cohort. Returns whether there is something left to do alone, or all is done."""
    from experiments.cohort import train_cohort  # late: it imports jax, and most look in vain

    first, *others = folders = list(claims)
    for folder in others:
        with (folder / "log.txt").open("a") as log:
            log.write(f"Trained together with {first.name}; see its log.\n")
    with (first / "log.txt").open("a", buffering=1) as log:
        console = Console(file=log, width=100)
        try:
            configs = [ConfigDict(records.read_json(folder / "config.json")) for folder in folders]
            for folder in folders:
                (folder / "error.txt").unlink(missing_ok=True)
            train_cohort(configs, folders, data_dir, stop=stop, console=console)
        except Exception:
            log.write(f"{traceback.format_exc()}\nThe cohort failed; its runs go on alone.\n")
    for folder in folders:
        if is_finished(folder):
            claims.pop(folder).release("finished")
    return not stop()


def _train_alone(
    folder: Path, claims: dict[Path, Claim], data_dir: Path, stop: Callable[[], bool]
) -> None:
    from experiments import procedures  # late, as above

    with (folder / "log.txt").open("a", buffering=1) as log:
        console = Console(file=log, width=100)
        (folder / "error.txt").unlink(missing_ok=True)
        try:
            config = ConfigDict(records.read_json(folder / "config.json"))
            summary = procedures.run(config, folder, data_dir, stop=stop, console=console)
        except Exception:
            text = traceback.format_exc()
            log.write(text)
            _record_failure(folder, text)
            claims.pop(folder).release("failed")
        else:
            claims.pop(folder).release("stopped" if summary is None else "finished")


def _record_failure(folder: Path, text: str) -> None:
    records.write_text(folder / "error.txt", text)


def _stop_when_orphaned() -> Callable[[], bool]:
    """Returns whether the process at the other end of standard input is gone, or has closed it."""
    orphaned = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 1024):
                pass
        orphaned.set()

    threading.Thread(target=watch, daemon=True).start()
    return orphaned.is_set


def main(arguments: Sequence[str]) -> None:
    """Works on the order named by the first argument, as the job named by the second.

    Ends when standard input does, so that no worker outlives its sweep.
    """
    order, job = arguments
    work(Path(order), job, _stop_when_orphaned())


if __name__ == "__main__":
    main(sys.argv[1:])
