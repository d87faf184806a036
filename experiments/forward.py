"""The forward pass of a training step."""

from typing import Any

import flax.linen as nn
import jax
import optax

from experiments.data import Dataset, Split, crop_and_flip


def training_pass(
    model: nn.Module,
    dataset: Dataset,
    seed: int | jax.Array,
    variables: dict[str, Any],
    batch: Split,
    step: int | jax.Array,
) -> tuple[jax.Array, Any]:
    """Runs the network on a batch as a step of training does: augmented, with dropout.

    Args:
      model: maps ``(images, train)`` to logits.
      dataset: whose batch it is.
      seed: the run's seed.
      variables: the model's ``params`` and ``batch_stats``.
      batch: uint8 images ``[batch, height, width, channels]`` and int32 labels ``[batch]``.
      step: the step; what is drawn at random hangs on it and on the seed.

    Returns:
      The logits, and the new ``batch_stats``.
    """
    images = batch.images
    if dataset.augment:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        images = crop_and_flip(jax.random.fold_in(key, step), images)
    dropout_key = jax.random.fold_in(jax.random.key(seed), 2)
    logits, updated = model.apply(
        variables,
        dataset.normalise(images),
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(dropout_key, step)},
    )
    return logits, updated.get("batch_stats", {})


def mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of a batch.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(mean_loss(jnp.zeros((3, 4)), jnp.array([0, 1, 2]))), 4)
      1.3863
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
