"""Checkpoints of a run: every use of Orbax is in this file.

A checkpoint is a directory that appears under its final name only when it is complete, so a run
that is killed leaves the earlier ones. Beside the arrays it holds their digest, which is verified
when they are restored: damage on the disk is found, and the checkpoint before is used.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
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
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        sha.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of a run: its latest two, and the best one.

    Args:
      directory: where they lie; created if there is none.
    """

    def __init__(self, directory: Path) -> None:
        self._best = _Only(0)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(2), self._best]
            ),
            cleanup_tmp_directories=True,
            # In the foreground: the next dispatch donates the arrays, and a step that has been
            # logged as saved is saved.
            enable_async_checkpointing=False,
        )
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, best: int) -> None:
        """Saves a checkpoint, and removes those that are neither the latest two nor the best.

        Args:
          step: the step that it comes after; must not have a checkpoint yet.
          state: a pytree of arrays, typed random keys included.
          best: the step of the best one up to now, this one included; 0 if none is.
        """
        self._best.step = best
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                digest=ocp.args.JsonSave({"sha256": digest(state)}),
            ),
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
            if (state := self.restore(step, template)) is not None:
                return Restored(step, state)
            self._manager.delete(step)
        if steps:
            raise UserError(
                f"{self.directory}: every checkpoint was damaged; remove the working directory to "
                "start again"
            )
        return None

    def restore(self, step: int, template: Any) -> Any | None:
        """Returns the state in the checkpoint of a step.

        Args:
          step: the step.
          template: a pytree of arrays of the same structure, types and shapes.

        Returns:
          The state, or None if the checkpoint is damaged, which is logged, or missing.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), digest=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # each kind of damage raises its own type, down to the codec's
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            if restored.digest == {"sha256": digest(restored.state)}:
                return restored.state
            reason = "its arrays do not have the digest that was saved with them"
        logging.error("The checkpoint %s is damaged: %s", self.directory / str(step), reason)
        return None

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, damaged or not, in order."""
        return sorted(self._manager.all_steps())

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints of all steps after one."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits for what is still being written."""
        self._manager.close()


@dataclasses.dataclass
class _Only:
    """The policy of keeping one step's checkpoint."""

    step: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]
