"""Finished and unfinished runs as they lie on the disk.

A run's identity is its configuration: the folder of a run is named after a digest of it, so that
the same run is never made twice. A run's folder holds ``config.json``, ``metrics.jsonl``,
``summary.json`` once it is finished, and ``error.txt`` if its last attempt failed.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict

from experiments import records


class Run(NamedTuple):
    """What one run has left on the disk.

    Attributes:
      path: its folder.
      config: the configuration, a mapping as JSON gives it back.
      history: the lines of ``metrics.jsonl``.
      summary: the content of ``summary.json``, or None if the run is not finished.
      error: the content of ``error.txt``, the traceback of the last attempt; None if it did not
        fail.
    """

    path: Path
    config: dict[str, Any]
    history: list[records.Line]
    summary: dict[str, Any] | None
    error: str | None

    @property
    def state(self) -> Literal["finished", "failed", "started"]:
        """How far the run has come."""
        if self.summary is not None:
            return "finished"
        return "failed" if self.error is not None else "started"


def identity(config: ConfigDict) -> str:
    """Returns the name of the run of a configuration: 12 hexadecimal digits.

    Args:
      config: the configuration; the order of its keys does not matter.

    Returns:
      The name.

    Example:
      >>> identity(ConfigDict({'seed': 0, 'steps': 9}))
      '3e00631d21d6'
      >>> identity(ConfigDict({'steps': 9, 'seed': 0}))
      '3e00631d21d6'
      >>> identity(ConfigDict({'steps': 9, 'seed': 1}))
      'fe4dcaf4efb8'
    """
    text = json.dumps(config.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(path: Path) -> Run:
    """Returns the run in a folder.

    Args:
      path: the folder; it holds a ``config.json``.

    Returns:
      The run.

    Raises:
      UserError: if a file in it is not JSON.
    """
    summary, error = path / "summary.json", path / "error.txt"
    return Run(
        path,
        records.read_json(path / "config.json"),
        records.read_metrics(path),
        records.read_json(summary) if summary.exists() else None,
        error.read_text() if error.exists() else None,
    )


def find(root: Path) -> list[Run]:
    """Returns every run in a folder and in the folders below it, in the order of their paths.

    What lies within a run's folder is that run's own, its stages for instance, and not listed.

    Args:
      root: the folder of a run, of a sweep, or of several sweeps.

    Returns:
      The runs; none where there are none.

    Raises:
      UserError: if a file of a run is not JSON.
    """
    found = []
    for folder, subfolders, files in os.walk(root):
        if "config.json" in files:
            found.append(Path(folder))
            subfolders.clear()
    return [read(folder) for folder in sorted(found)]


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the dotted paths of the keys in which configurations differ, sorted.

    Example:
      >>> differing([{'seed': 0, 'rule': {'name': 'gmp'}}, {'seed': 1, 'rule': None}])
      ['rule', 'rule.name', 'seed']
    """
    flats = [records.flat(config) for config in configs]
    absent = object()
    return sorted(
        key
        for key in set().union(*flats)
        if any(other.get(key, absent) != flats[0].get(key, absent) for other in flats)
    )
