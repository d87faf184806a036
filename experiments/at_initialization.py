"""Pruning before training: the methods of `sparsejax.at_initialization` as rules of a run.

``{"name": "at_initialization.snip", "sparsity": 0.98, "batches": 2}`` makes masks that never move
from the run's first two training batches. The run supplies what the function of that name needs;
its other arguments are the configuration's, as are ``batches``, 1 unless it is given, and
``ablation``, a test of the masks (Frankle et al. 2021, arXiv 2009.08576):

- ``shuffled``: as many weights of each layer, in random places;
- ``reinitialized``: the weights that are trained are not those that were scored. The run keeps the
  initial weights of its seed, and the method scores others of the same distribution, which is the
  same as drawing new ones after pruning;
- ``inverted``: the weights with the lowest scores.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.data import Dataset, Split, batch_indices
from experiments.forward import mean_loss, training_pass
from sparsejax import at_initialization
from sparsejax.typing import Masks, Params

PREFIX = "at_initialization."
"""What the names of these rules begin with."""

Ablation = Literal["shuffled", "reinitialized", "inverted"]
Batch = tuple[Split, jax.Array]
"""Examples, and the step of training that sees them first."""


class Task(NamedTuple):
    """What a method may ask of a run.

    Attributes:
      model: maps ``(images, train)`` to logits.
      dataset: the examples.
      batch_size: examples in a batch.
      seed: the run's seed.
    """

    model: nn.Module
    dataset: Dataset
    batch_size: int
    seed: int

    def draw(self, key: jax.Array) -> dict[str, Any]:
        """Returns new variables of the model."""
        example = self.dataset.normalise(self.dataset.train.images[:1])
        return {"batch_stats": {}, **self.model.init(key, example)}

    def supply(self, batches: int) -> dict[str, Any]:
        """Returns what the methods may need, by the names of their arguments.

        Args:
          batches: how many batches there are to be.
        """
        # What norms begin with hangs on no key.
        rest = {"batch_stats": self.draw(jax.random.key(0))["batch_stats"]}
        train = self.dataset.train
        steps = range(batches)
        rows = np.stack(
            [batch_indices(self.seed, s, len(train.labels), self.batch_size) for s in steps]
        )
        # Taken on the host: a program would hold all examples as constants.
        examples = Split(*(jnp.asarray(np.asarray(x)[rows]) for x in train))

        def loss(params: Params, batch: Batch, temperature: float | jax.Array = 1.0) -> jax.Array:
            examples, step = batch
            variables = {"params": params, **rest}
            logits, _ = training_pass(
                self.model, self.dataset, self.seed, variables, examples, step
            )
            return mean_loss(logits / temperature, examples.labels)

        def apply(params: Params, inputs: jax.Array) -> jax.Array:
            outputs: Any = self.model.apply({"params": params, **rest}, inputs, train=False)
            return outputs

        inputs = jax.ShapeDtypeStruct((1, *train.images.shape[1:]), jnp.float32)
        return {
            "apply": apply,
            "batches": (examples, jnp.array(steps)),
            "inputs": inputs,
            "loss": loss,
        }


_SUPPLIED = ("apply", "batches", "inputs", "key", "loss", "params")


def rules(task: Task | None) -> dict[str, Callable[..., optax.GradientTransformationExtraArgs]]:
    """Returns a function for each method that makes a rule of its options.

    Args:
      task: the run. Without one the rules can be made, and their arguments be checked, but they
        have no masks.

    Returns:
      The functions by the names of their rules.
    """
    return {
        PREFIX + name: _rule(method, task)
        for name, method in inspect.getmembers(at_initialization, inspect.isfunction)
        if "sparsity" in inspect.signature(method).parameters
    }


def _rule(
    method: Callable[..., Masks], task: Task | None
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """The function that makes a rule; its signature has the arguments that a configuration has."""
    parameters = inspect.signature(method, eval_str=True).parameters

    def rule(
        *, batches: int = 1, ablation: Ablation | None = None, seed: int | jax.Array = 0, **own: Any
    ) -> optax.GradientTransformationExtraArgs:
        allowed = [x for x in typing.get_args(Ablation) if x != "inverted" or x in parameters]
        if ablation not in (None, *allowed):
            raise ValueError(f"ablation: {ablation!r} is impossible; allowed: {', '.join(allowed)}")

        def masks(params: Params, key: jax.Array) -> Masks:
            if task is None:
                raise ValueError("masks before training need the model and the data of a run")
            supplied = {**task.supply(batches), "key": key, "params": params}
            if ablation == "reinitialized":
                supplied["params"] = task.draw(jax.random.fold_in(key, 1))["params"]
            if ablation == "inverted":
                supplied["inverted"] = True
            found = method(**{k: x for k, x in supplied.items() if k in parameters}, **own)
            if ablation == "shuffled":
                key, structure = jax.random.fold_in(key, 2), own.get("structure")
                found = at_initialization.shuffled(found, params, key, structure=structure)
            return found

        return sparsejax.fixed(masks, seed=seed)

    of_method = [p for k, p in parameters.items() if k not in (*_SUPPLIED, "inverted")]
    of_runner = [
        p
        for p in inspect.signature(rule, eval_str=True).parameters.values()
        if p.kind == p.KEYWORD_ONLY
    ]
    rule.__signature__ = inspect.Signature([*of_method, *of_runner])  # type: ignore[attr-defined]
    return rule
