"""The axes of a program's arrays: the labels of their positions, and what dead ones hold.

Beside its labels an axis carries what its positions hold once the unit that they belong to is dead,
that is, once all parameters of the unit are 0. This is followed through the program as far as it is
a constant: relu(0) is 0, sigmoid(0) is 0.5, and 0 times anything (finite) is 0.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.coupling.labels import Labels

ONE = "it has one entry"
BROADCAST = "its one entry is broadcast"

Source = tuple[int, int]
"""A leaf's place among all leaves, and one of its axes."""


class Axis(NamedTuple):
    """One axis of an array.

    Attributes:
      labels: The label of each position.
      dead: What a position holds when a unit that it belongs to is dead; NaN where unknown.
      sources: The axes of parameters that it comes from, as long as no input mixes in.
    """

    labels: np.ndarray
    dead: np.ndarray
    sources: frozenset[Source] = frozenset()


class Array(NamedTuple):
    """An array of the program.

    Attributes:
      axes: Its axes.
      active: Whether it depends on the inputs.
      value: The number that all its entries are; NaN where they differ or are unknown.
    """

    axes: tuple[Axis, ...]
    active: bool = False
    value: float = math.nan


class Trace(NamedTuple):
    """What a walk through a program collects.

    Attributes:
      labels: The labels of all axes.
      producers: The axes of parameters along which activations come into being.
      consumers: The axes of parameters along which activations are summed up.
      consumed: Labels that are summed over, and what reaches the consumer of a dead unit.
    """

    labels: Labels
    producers: set[Source]
    consumers: set[Source]
    consumed: list[tuple[int, float]]


def fixed(trace: Trace, n: int, reason: str) -> Axis:
    """A new axis that cannot be removed."""
    return Axis(trace.labels.fixed(n, reason), np.full(n, math.nan))


def new(trace: Trace, n: int, value: float = math.nan) -> Axis:
    """A new axis whose positions can be removed, and hold a value."""
    return Axis(trace.labels.new(n), np.full(n, value))


def zeros(dead: np.ndarray) -> np.ndarray:
    """What linear operations make of it: only a 0 is known to stay what it is."""
    return np.where(dead == 0, 0, math.nan)


def not_understood(trace: Trace, eqn: Any, arrays: list[Array]) -> list[list[Axis]]:
    """The axes of an operation's results, when nothing of it can be removed."""
    reason = f"{eqn.primitive.name} is not understood"
    for array in arrays:
        for axis in array.axes:
            trace.labels.fix(axis.labels, reason)
    shapes = [getattr(var.aval, "shape", ()) for var in eqn.outvars]
    return [[fixed(trace, n, reason) for n in shape] for shape in shapes]


def agreed(values: np.ndarray) -> np.ndarray:
    """The number that all rows hold, NaN where they differ or one is unknown."""
    low, high = values.min(0), values.max(0)
    return np.where(low == high, low, math.nan)


def constant(trace: Trace, value: Any) -> Array:
    """An array that the program holds: its positions can go only along axes where it is the same.

    >>> trace = Trace(Labels(), set(), set(), [])
    >>> rows, columns = constant(trace, np.array([[1.0, 2.0], [1.0, 2.0]])).axes
    >>> trace.labels.all_fixed(rows.labels), trace.labels.all_fixed(columns.labels)
    (False, True)
    """
    if jax.dtypes.issubdtype(jax.typeof(value).dtype, jax.dtypes.extended):
        return Array(tuple(fixed(trace, n, "it holds random keys") for n in jax.numpy.shape(value)))
    array = np.asarray(value)
    same = array.size > 0 and bool((array == array.flat[0]).all())
    number = math.nan if not same or np.iscomplexobj(array) else float(array.flat[0])
    axes = []
    for axis, n in enumerate(array.shape):
        if same or (array.size and (array == array.take([0], axis)).all()):
            axes.append(Axis(trace.labels.new(n), np.full(n, number)))
        else:
            axes.append(fixed(trace, n, "a constant of the function varies along it"))
    return Array(tuple(axes), False, number)


def merge(trace: Trace, axes: Sequence[Axis]) -> Axis:
    """One axis of several: a position goes when any of its factors goes.

    >>> trace = Trace(Labels(), set(), set(), [])
    >>> height, channel = fixed(trace, 2, "a window"), new(trace, 3)
    >>> merge(trace, [height, channel]).labels.tolist() == [*channel.labels, *channel.labels]
    True
    """
    if len(axes) == 1:
        return axes[0]
    for axis in axes:
        if len(axis.labels) == 1:
            trace.labels.fix(axis.labels, ONE)
    sources = frozenset[Source]().union(*(axis.sources for axis in axes))
    labels = np.stack([g.ravel() for g in np.meshgrid(*(a.labels for a in axes), indexing="ij")])
    dead = np.stack([g.ravel() for g in np.meshgrid(*(a.dead for a in axes), indexing="ij")])
    free = [i for i, axis in enumerate(axes) if not trace.labels.all_fixed(axis.labels)]
    if len(free) <= 1:
        (i,) = free or [0]
        return Axis(labels[i], dead[i], sources)
    products = [trace.labels.product(column) for column in labels[free].T.tolist()]
    return Axis(np.array(products), agreed(dead[free]), sources)


def split(trace: Trace, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Several axes of one: the inverse of `merge`.

    >>> trace = Trace(Labels(), set(), set(), [])
    >>> heads, size = split(trace, flat := new(trace, 6), [2, 3])
    >>> set(trace.labels.free(flat.labels[4])) == {heads.labels[1], size.labels[1]}
    True
    """
    wide = [d for d, n in enumerate(sizes) if n > 1]
    if not wide:
        trace.labels.fix(axis.labels, ONE)
    if len(wide) <= 1:
        return [axis if d in wide else fixed(trace, n, ONE) for d, n in enumerate(sizes)]
    if trace.labels.all_fixed(axis.labels):
        return [fixed(trace, n, trace.labels.reason(axis.labels[0]) or ONE) for n in sizes]
    axes = [new(trace, n) if n > 1 else fixed(trace, n, ONE) for n in sizes]
    trace.labels.equate(axis.labels, merge(trace, axes).labels)
    dead = axis.dead.reshape(sizes)
    others = [np.moveaxis(dead, d, -1).reshape(-1, n) for d, n in enumerate(sizes)]
    return [
        one._replace(dead=agreed(other), sources=axis.sources)
        for one, other in zip(axes, others, strict=True)
    ]
