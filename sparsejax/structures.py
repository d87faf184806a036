"""Structures: which weights compete for survival, and which stand or fall together.

The axes are those of flax and haiku: a dense kernel is (in, out), a convolution's is
(height, width, in, out). For equinox and others with (out, in) name the axes the other way round.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from sparsejax.typing import Structure


def unstructured() -> Structure:
    """Every entry stands alone; all entries of a parameter compete.

    >>> unstructured().group(jnp.ones((2, 3))).shape
    (2, 3)
    """
    return Structure(_same, _as_is, _all_axes, _fits_all, 0, "unstructured")


def nm(n: int, m: int, axis: int = -2) -> Structure:
    """N:M keeps n of every m neighbours along one axis. Mishra et al. 2021, arXiv 2104.08378.

    Under a schedule a row of m keeps round(density × m) entries and never fewer than n, so that the
    masks run from m:m down to n:m.

    Args:
      n: Entries that every m neighbours keep in the end.
      m: Neighbours, along the input axis of a kernel as the hardware has it.
      axis: The axis, which m must divide.

    Raises:
      ValueError: if n is not between 1 and m; on use, if m does not divide the axis.

    >>> import sparsejax
    >>> params = {"w": jnp.array([[3.0], [1.0], [2.0], [9.0]])}
    >>> masks = sparsejax.masks_from_scores(params, params, 0.5, structure=nm(2, 4))
    >>> masks["w"].ravel().tolist()
    [True, False, False, True]
    """
    if not 1 <= n <= m:
        raise ValueError(f"N:M needs 1 <= n <= m, got n = {n}, m = {m}")

    def check(shape: Sequence[int]) -> None:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"{n}:{m} along axis {axis} needs that axis, the shape is {tuple(shape)}"
            )
        if shape[axis] % m:
            raise ValueError(
                f"{n}:{m} needs an axis that {m} divides, but axis {axis} of {tuple(shape)} "
                f"has {shape[axis]} entries"
            )

    def group(x: jax.Array) -> jax.Array:
        a = axis % x.ndim
        return x.reshape(*x.shape[:a], x.shape[a] // m, m, *x.shape[a + 1 :])

    def axes(ndim: int) -> tuple[int, ...]:
        return (axis % (ndim - 1) + 1,)

    return Structure(group, lambda mask, shape: mask.reshape(shape), axes, check, n, f"{n}:{m}")


def block(shape: Sequence[int]) -> Structure:
    """Blocks of entries stand or fall together, ranked by the mean score of a block.

    Blocks tile the last axes; where they do not divide an axis, those at its end are smaller. The
    number of blocks that are kept is density × number of blocks, rounded. Gray et al. 2017, GPU
    kernels for block-sparse weights.

    Of a convolution (height, width, in, out) a block of two sizes takes its entries at one position
    of the window, and the blocks of all positions compete; one of four sizes takes them at several:
    (3, 3, 1, 1) are whole 3 × 3 windows, (3, 3, 1, 16) those of 16 output channels.

    Args:
      shape: The entries of a block along the last axes, e.g. (16, 16); more than an axis has mean
        the whole axis.

    Raises:
      ValueError: if a size is below 1; on use, if a parameter has fewer axes than a block.

    >>> structure = block((2, 2))
    >>> structure.group(jnp.arange(12.0).reshape(3, 4)).tolist()
    [[2.5, 4.5], [8.5, 10.5]]
    """
    sizes = tuple(shape)
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"a block needs sizes of at least 1, got {sizes}")

    def check(shape: Sequence[int]) -> None:
        if len(shape) < len(sizes):
            raise ValueError(
                f"blocks of {sizes} need {len(sizes)} axes, the shape is {tuple(shape)}"
            )

    def group(x: jax.Array) -> jax.Array:
        x = _as_float(x)
        for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
            axis %= x.ndim
            blocks = -(-x.shape[axis] // size)
            # Weighted means axis by axis are the mean over the entries that a block really has.
            padding = [(0, 0)] * x.ndim
            padding[axis] = (0, blocks * size - x.shape[axis])
            lengths = jnp.full(blocks, size, x.dtype).at[-1:].set(size - padding[axis][1])
            split = (*x.shape[:axis], blocks, size, *x.shape[axis + 1 :])
            sums = jnp.pad(x, padding).reshape(split).sum(axis + 1)
            x = sums / lengths.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        return x

    def expand(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
            mask = jnp.repeat(mask, size, axis=axis)
            mask = jax.lax.slice_in_dim(mask, 0, shape[axis], axis=axis % mask.ndim)
        return mask

    return Structure(group, expand, _all_axes, check, 0, f"block {sizes}")


def channel(axis: int = -1) -> Structure:
    """Whole channels stand or fall, ranked by their mean score; masks are (1, ..., C).

    Li et al. 2017, arXiv 1608.08710, which ranks filters by their L1 norm.

    Args:
      axis: The axis of the channels; -1 is a kernel's output channels.

    Raises:
      ValueError: on use, if a parameter lacks the axis.

    >>> channel().group(jnp.array([[1.0, 4.0], [3.0, 0.0]])).tolist()
    [[2.0, 2.0]]
    """

    def group(x: jax.Array) -> jax.Array:
        others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
        return jnp.mean(_as_float(x), axis=others, keepdims=True)

    return Structure(group, _as_is, _all_axes, _needs_axis("channels", axis), 0, "channel")


def constant_fan_in(output_axis: int = -1) -> Structure:
    """Every output neuron keeps the same number of inputs. Lasby et al. 2024, arXiv 2305.02299.

    The fan-in is density × (entries of a neuron), rounded.

    Args:
      output_axis: The axis of the output neurons.

    Raises:
      ValueError: on use, if a parameter lacks the axis.

    >>> import sparsejax
    >>> params = {"w": jnp.array([[1.0, 5.0], [2.0, 9.0]])}
    >>> masks = sparsejax.masks_from_scores(params, params, 0.5, structure=constant_fan_in())
    >>> masks["w"].tolist()
    [[False, False], [True, True]]
    """

    def axes(ndim: int) -> tuple[int, ...]:
        return tuple(a for a in range(ndim) if a != output_axis % ndim)

    check = _needs_axis("constant fan-in", output_axis)
    return Structure(_same, _as_is, axes, check, 0, "constant fan-in")


def by_path(structures: Mapping[str, Structure]) -> Structure:
    """Gives different parameters different structures; those that no pattern names have none.

    Args:
      structures: By path pattern (as in `fnmatch`, the first that matches counts) the structure of
        the parameters that it names.

    Raises:
      ValueError: if there are no patterns; on use, if a pattern matches no prunable parameter.

    >>> mixed = by_path({"Conv_*/kernel": channel(), "Dense_*": nm(2, 4)})
    >>> mixed.at("Conv_3/kernel").name, mixed.at("Dense_0/kernel").name, mixed.at("head").name
    ('channel', '2:4', 'unstructured')
    """
    if not structures:
        raise ValueError("by_path needs a structure for at least one path pattern")
    patterns = dict(structures)

    def at(path: str) -> Structure:
        for pattern, structure in patterns.items():
            if fnmatch.fnmatchcase(path, pattern):
                return structure.at(path)
        return unstructured()

    def refuse(*_: Any) -> NoReturn:
        raise ValueError(
            "this structure differs from parameter to parameter: ask structure.at(path) for one"
        )

    return Structure(refuse, refuse, refuse, refuse, 0, "by path", at, tuple(patterns))


def units(structure: Structure, shape: tuple[int, ...]) -> int:
    """Returns how many units compete in one row of a parameter of this shape.

    >>> units(nm(2, 4), (8, 3)), units(constant_fan_in(), (8, 3)), units(block((4, 4)), (8, 3))
    (4, 8, 2)
    """
    grouped = jax.eval_shape(structure.group, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    return math.prod(grouped[a] for a in structure.axes(len(grouped)))


def _same(x: jax.Array) -> jax.Array:
    return x


def _as_is(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del shape
    return mask


def _all_axes(ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))


def _fits_all(shape: Sequence[int]) -> None:
    del shape


def _needs_axis(what: str, axis: int) -> Callable[[tuple[int, ...]], None]:
    def check(shape: Sequence[int]) -> None:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"{what} along axis {axis} needs that axis, the shape is {tuple(shape)}"
            )

    return check


def _as_float(x: jax.Array) -> jax.Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
