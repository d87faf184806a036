"""Neurons that a sparse layer has lost, or has twice."""

import math
from typing import NamedTuple

import jax
import numpy as np

from sparsejax.masks import path_name, spread
from sparsejax.typing import Masks, Params


class Neurons(NamedTuple):
    """The neurons on both sides of one layer.

    Attributes:
      inputs: How many there are before it.
      unused: How many of these it takes nothing from.
      outputs: How many there are behind it.
      dead: How many of these have no connection: they are constant.
      duplicated: How many of the others do what one before them does, up to a positive factor.
    """

    inputs: int
    unused: int
    outputs: int
    dead: int
    duplicated: int


def neurons(
    params: Params,
    masks: Masks,
    *,
    similarity: float = 0.999,
    input_axis: int = -2,
    output_axis: int = -1,
) -> dict[str, Neurons]:
    """Counts the unused, dead and duplicated neurons of each masked layer.

    A neuron of a convolution is a channel: its connections are all entries of its filter. Two
    neurons are duplicates if the cosine between their weights reaches `similarity`; behind a
    rectifier they then give the next layer the same, but for a factor. (Their biases are not
    looked at.)

    Args:
      params: The parameters, arrays of two and more axes where they are masked.
      masks: A mask tree; a scalar `True` marks a leaf that stays dense, and is left out.
      similarity: The least cosine of duplicates, at most 1.
      input_axis: The axis of the inputs.
      output_axis: The axis of the outputs.

    Returns:
      By path, for each masked parameter.

    Raises:
      ValueError: if a masked parameter lacks one of the axes.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'w': jnp.array([[1.0, 2.0, 0.0, 1.0], [2.0, 4.0, 0.0, 0.0], [0.0] * 4])}
      >>> neurons(params, {'w': params['w'] != 0})['w']
      Neurons(inputs=3, unused=1, outputs=4, dead=1, duplicated=1)
    """
    found = {}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, p), m in zip(leaves, jax.tree.leaves(spread(masks, params)), strict=True):
        if not m.ndim:
            continue
        name = path_name(path)
        if not max(-input_axis, -output_axis, input_axis + 1, output_axis + 1) <= p.ndim:
            raise ValueError(
                f"{name!r} of shape {p.shape} lacks axis {input_axis} or {output_axis}"
            )
        mask = np.broadcast_to(m, p.shape)
        weights = np.where(mask, np.asarray(p, np.float32), 0)
        inputs, outputs = p.shape[input_axis], p.shape[output_axis]
        used = np.moveaxis(mask, input_axis, 0).reshape(inputs, -1).any(1)
        alive = np.moveaxis(mask, output_axis, 0).reshape(outputs, -1).any(1)
        rows = np.moveaxis(weights, output_axis, 0).reshape(outputs, math.prod(p.shape) // outputs)
        rows = rows[alive]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1)
        twice = np.triu(rows @ rows.T >= similarity, 1).any(0)
        found[name] = Neurons(
            inputs, int((~used).sum()), outputs, int((~alive).sum()), int(twice.sum())
        )
    return found
