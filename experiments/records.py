"""The files of a run that are made to be read: its configuration, metrics and summary."""

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from experiments.errors import UserError

Line = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Args:
      path: the file; what it held before stays until the new content is on the disk.
      text: the content.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Writes a file of JSON whole or not at all.

    Args:
      path: the file; what it held before stays until the new content is on the disk.
      content: what `json` can write.
    """
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Returns what a file of JSON holds.

    Raises:
      UserError: if it is not JSON, naming the file.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; choose another --workdir") from error


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes a working directory that of a configuration, or checks that it already is.

    Args:
      workdir: the directory; created if there is none.
      config: the configuration, kept there as ``config.json``.

    Raises:
      UserError: if the directory belongs to another configuration; the message lists every
        difference. Also if ``config.json`` cannot be read.
    """
    path = workdir / "config.json"
    ours = json.loads(json.dumps(config.to_dict()))  # as JSON would give it back: lists for tuples
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, ours)
        return
    theirs = read_json(path)
    if ours != theirs:
        new, old = (
            {key: json.dumps(value) for key, value in flat(tree, "config").items()}
            for tree in (ours, theirs)
        )
        differences = [
            f"  {key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key, "absent") != new.get(key, "absent")
        ]
        raise UserError(
            f"{workdir} holds a run of another configuration; choose another --workdir, or repeat "
            "that configuration. The differences:\n" + "\n".join(differences)
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a configuration by their dotted paths.

    Example:
      >>> flat({'seed': 0, 'rule': {'name': 'rigl', 'sparsity': 0.9}})
      {'seed': 0, 'rule.name': 'rigl', 'rule.sparsity': 0.9}
    """
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    items = [flat(value, f"{prefix}.{key}" if prefix else key) for key, value in tree.items()]
    return {path: value for item in items for path, value in item.items()}


class Metrics:
    """The metrics of a run, line by line, in ``metrics.jsonl`` and for TensorBoard.

    A line is a mapping with the keys ``step`` and ``kind``. The file holds nothing that differs
    between two runs of one configuration, such as the time of day, so that they can be compared bit
    for bit.

    Args:
      workdir: the run's directory.
      step: the step that the run continues from; lines beyond it, and a line that was cut off
        while it was written, are removed.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self.path = workdir / "metrics.jsonl"
        self.history: list[Line] = [line for line in read_metrics(workdir) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.history))
        self._file = self.path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, line: Line) -> None:
        """Appends a line."""
        self.history.append(line)
        self._file.write(json.dumps(line) + "\n")
        for key, value in flat(line).items():
            if key not in ("step", "kind") and isinstance(value, int | float):
                self._board.add_scalar(f"{line['kind']}/{key}", value, line["step"])

    def sync(self) -> None:
        """Returns when all lines are on the disk; a checkpoint may then rely on them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Writes what is left and closes the files."""
        self.sync()
        self._file.close()
        self._board.close()


def read_metrics(workdir: Path) -> list[Line]:
    """Returns the lines of a run's ``metrics.jsonl``, up to the first that is not whole.

    Args:
      workdir: the run's directory.

    Returns:
      The lines; none if there is no file.
    """
    path = workdir / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines(keepends=True) if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not text.endswith("\n"):
            break
        lines.append(line)
    return lines


def last_line(path: Path, kind: str | None = None) -> Line | None:
    """Returns the last whole line of a file of metrics, without reading all of it.

    Args:
      path: the file.
      kind: that of the line to find; None for any.

    Returns:
      The line; None if there is none in the file's last 64 KiB, or no file.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        *whole, _ = file.read().split(b"\n")
    for text in reversed(whole):
        try:
            line: Line = json.loads(text)
        except ValueError:  # the first, cut off
            continue
        if kind in (None, line["kind"]):
            return line
    return None
