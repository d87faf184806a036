"""Who works on a run: one worker at a time, whatever dies and whoever starts.

A run's folder holds ``attempts/0001.json``, ``0002.json`` and so on, one file for each time that a
worker took the run. The file with the highest number counts: while it says no outcome and its
worker is alive, the run is taken. To take a run is to create the next file, which the file system
lets only one process do; nobody ever removes or overwrites the claim of another. So two workers
never hold a run together, and a worker that died without a word, its claim stale, is succeeded.
"""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import psutil

from experiments import records

HEARTBEAT = 10.0
"""Seconds from one sign of life, the claim's time stamp, to the next."""
STALE = 120.0
"""Seconds without a sign of life after which a worker on another machine counts as dead."""

Outcome = Literal["finished", "failed", "stopped"]


class Attempt(NamedTuple):
    """One time that a run was taken.

    Attributes:
      path: the file that tells of it.
      job: the name of the job that the worker belongs to.
      worker: the process: its machine, number and time of creation.
      step: the step that the run had come to when it was taken.
      outcome: what became of it; None while it goes on, and for ever if the worker died.
    """

    path: Path
    job: str
    worker: dict[str, Any]
    step: int
    outcome: Outcome | None

    @property
    def number(self) -> int:
        """The attempt's number, from 1."""
        return int(self.path.stem)

    def goes_on(self) -> bool:
        """Whether the worker holds the run still. A dead one on this machine is known at once."""
        if self.outcome is not None:
            return False
        ours = _this_process()
        if all(self.worker[key] == ours[key] for key in ("host", "boot", "namespace")):
            return _lives(self.worker["pid"], self.worker["created"])
        probe = self.path.with_name(f".now.{os.getpid()}.{threading.get_ident()}")
        probe.touch()  # the time by the same clock as the claim's, that of the file system
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime < STALE
        finally:
            probe.unlink()


def attempts(folder: Path) -> list[Attempt]:
    """Returns every attempt at a run, the first one first.

    Args:
      folder: the run's folder.
    """
    found = []
    for path in sorted((folder / "attempts").glob("[0-9]*.json"), key=lambda path: int(path.stem)):
        try:
            content = records.read_json(path)
        except FileNotFoundError:  # withdrawn in this moment
            continue
        found.append(Attempt(path, *(content[key] for key in Attempt._fields[1:])))
    return found


def holder(folder: Path) -> Attempt | None:
    """Returns the attempt that holds a run now, None if the run is free.

    Args:
      folder: the run's folder.
    """
    last = attempts(folder)[-1:]
    return last[0] if last and last[0].goes_on() else None


class Claim:
    """The right to work on a run, from `take` until `release`.

    A thread renews its time stamp, so that workers on other machines see that this one lives.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, folder: Path, job: str, step: int) -> Self | None:
        """Takes a run, if it is free.

        Args:
          folder: the run's folder.
          job: the name of the job that this process belongs to.
          step: the step that the run has come to.

        Returns:
          The claim, or None if another worker has the run.
        """
        earlier = attempts(folder)
        if earlier and earlier[-1].goes_on():
            return None
        number = earlier[-1].number + 1 if earlier else 1
        path = folder / "attempts" / f"{number:04}.json"
        attempt = Attempt(path, job, _this_process(), step, None)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".draft.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(_text(attempt))
        try:
            # A link appears with its whole content, and only where there is no file yet.
            os.link(draft, path)
        except FileExistsError:
            return None
        finally:
            draft.unlink()
        return cls(attempt)

    def held(self) -> bool:
        """Whether the run is still this worker's; not if it slept so long that it was succeeded."""
        number = self.attempt.number + 1
        return not self.attempt.path.with_name(f"{number:04}.json").exists()

    def release(self, outcome: Outcome) -> None:
        """Gives the run back, with what became of it."""
        self._stop_beating()
        ended = self.attempt._replace(outcome=outcome)
        records.write_text(self.attempt.path, _text(ended))

    def withdraw(self) -> None:
        """Gives the run back as if it had never been taken."""
        self._stop_beating()
        self.attempt.path.unlink()

    def _stop_beating(self) -> None:
        self._released.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            os.utime(self.attempt.path)


def _text(attempt: Attempt) -> str:
    content = attempt._asdict()
    del content["path"]
    return json.dumps(content) + "\n"


def _this_process() -> dict[str, Any]:
    """What tells this process from every other one on any machine."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        # Containers on one machine count their processes separately.
        "namespace": os.readlink(namespace) if namespace.is_symlink() else "",
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
    }


def _lives(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        # Else the number was given out anew. The time follows corrections of the clock.
        same = abs(process.create_time() - created) < 5
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
