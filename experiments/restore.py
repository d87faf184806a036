"""The trained network of a finished run, read back from the disk."""

import functools
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments import runs, train
from experiments.checkpoint import Checkpoints
from experiments.errors import UserError


def restore(
    run: runs.Run, data_dir: Path | None = None
) -> tuple[train.Experiment, train.TrainState]:
    """Returns the objects of a finished run, and its state after the last step.

    Args:
      run: the run; not that of a procedure.
      data_dir: where data sets lie; None for the default.

    Returns:
      The experiment, and the state that its last checkpoint holds.

    Raises:
      UserError: if the run is not finished, its configuration or its data are wrong, or the
        checkpoint of its last step is missing or damaged.
    """
    if run.summary is None:
        raise UserError(f"{run.path}: the run is not finished; the command that began it goes on")
    experiment = train.prepare(ConfigDict(run.config), data_dir)
    template = jax.jit(functools.partial(train.init, experiment))()
    step = run.summary["step"]
    checkpoints = Checkpoints(run.path / "checkpoints")
    try:
        state = checkpoints.restore(step, template) if step in checkpoints.steps() else None
    finally:
        checkpoints.close()
    if state is None:
        raise UserError(
            f"{run.path}: the run has no checkpoint of its last step, {step}, or a damaged one; "
            "train it again in another folder"
        )
    return experiment, state
