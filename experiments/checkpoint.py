"""Checkpoints of a run: every use of Orbax is in this file.

A checkpoint is a directory that appears under its final name only when it is complete, so a run
that is killed leaves the earlier ones. Beside the arrays it holds their digest, which is verified
when they are restored: damage on the disk is found, and the checkpoint before is used.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from experiments.errors import UserError


class Restored(NamedTuple):
    """A checkpoint that was read back.

    Attributes:
        step: the step it was made after.
        state: the pytree.
    """

    step: int
    state: Any


def digest(tree: Any) -> str:
    """Returns the SHA-256 of a pytree of arrays: of their paths, types, shapes and bytes.

    Args:
        tree: any pytree of arrays; typed random keys are taken by their data.

    Returns:
        The digest, hexadecimal.

    Example:
        >>> digest({'a': jnp.zeros(2)}) == digest({'a': jnp.zeros(2)})
        True
        >>> digest({'a': jnp.zeros(2)}) == digest({'a': -jnp.zeros(2)})
        False
    """
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).view(np.uint8) if array.ndim else array.tobytes())
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of a run: its latest two, and the one with the best validation accuracy.

    Args:
        directory: where they lie; created if there is none.
    """

    def __init__(self, directory: Path) -> None:
        policies = checkpoint_managers
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(
                    get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_accuracy,
            cleanup_tmp_directories=True,
            # In the foreground: the next dispatch donates the arrays, and a step that has been
            # logged as saved is saved.
            enable_async_checkpointing=False,
        )
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, accuracy: float | None) -> None:
        """Saves a checkpoint.

        Args:
            step: the step that it comes after; must not have a checkpoint yet.
            state: a pytree of arrays, typed random keys included.
            accuracy: the validation accuracy, or None if it is not known.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                digest=ocp.args.JsonSave({"sha256": digest(state)}),
            ),
            metrics=None if accuracy is None else {"validation_accuracy": accuracy},
        )

    def restore_latest(self, template: Any) -> Restored | None:
        """Returns the latest checkpoint that is intact, and removes damaged ones after it.

        Args:
            template: a pytree of arrays of the same structure, types and shapes.

        Returns:
            The checkpoint, or None where there is none yet.

        Raises:
            UserError: if there are checkpoints and all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            if (state := self._intact(step, template)) is not None:
                return Restored(step, state)
            self._manager.delete(step)
        if steps:
            raise UserError(
                f"{self.directory}: every checkpoint was damaged; remove the working directory to "
                "start again"
            )
        return None

    def restore_best(self, template: Any) -> Restored | None:
        """Returns the checkpoint with the best validation accuracy, the later one of a tie.

        Args:
            template: a pytree of arrays of the same structure, types and shapes.

        Returns:
            The checkpoint, or None if it is damaged or there is none.
        """
        step = self._manager.best_step()
        if step is None or (state := self._intact(step, template)) is None:
            return None
        return Restored(step, state)

    def close(self) -> None:
        """Waits for what is still being written."""
        self._manager.close()

    def _intact(self, step: int, template: Any) -> Any | None:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), digest=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # each kind of damage raises its own type, down to the codec's
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            if restored.digest == {"sha256": digest(restored.state)}:
                return restored.state
            reason = "its arrays do not have the digest that was saved with them"
        logging.error("The checkpoint %s is damaged: %s", self.directory / str(step), reason)
        return None


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["validation_accuracy"]
