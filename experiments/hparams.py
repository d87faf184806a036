"""What TensorBoard's HParams tab shows of a finished run."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams, scalar

from experiments import records

METRICS = ("test_accuracy", "validation_accuracy", "sparsity", "kept")
"""Keys of the summary that the tab shows, as ``summary/test_accuracy`` and so on."""


def write(workdir: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Writes the values of a run's configuration and its results for TensorBoard.

    They stand in a file of their own beside the run's other events, written whole or not at all;
    written again, it is replaced, so that the tab has one row for a run.

    Args:
      workdir: the run's directory.
      config: the configuration. Each number and string is a hyperparameter, named by its dotted
        path; what is neither is shown as JSON.
      summary: the content of ``summary.json``, with `METRICS` and ``step``.
    """
    values = {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in records.flat(dict(config)).items()
    }
    results = {f"summary/{key}": float(summary[key]) for key in METRICS}
    started_ended: list[Summary] = [*hparams(values, results)]
    scalars = [scalar(tag, value) for tag, value in results.items()]

    folder = workdir / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    # After the others in the alphabet, in which order TensorBoard reads them.
    path = folder / "events.out.tfevents.hparams"
    temporary = path.with_name(f"writing.{os.getpid()}.tmp")
    writer = RecordWriter(str(temporary))
    now = time.time()
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for content in (*started_ended, *scalars):
        event = Event(wall_time=now, step=summary["step"], summary=content)
        writer.write(event.SerializeToString())
    writer.flush()
    writer.close()
    os.replace(temporary, path)
