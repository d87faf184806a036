"""The types that the library speaks in: aliases and protocols, no code.

A *mask tree* has the structure of the parameters. Each leaf is a bool array that broadcasts to its
parameter (a mask of output channels is `(1, 1, 1, C)`); a scalar `True` marks a parameter that
stays dense.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax

Params = Any
"""Any pytree of arrays."""

Masks = Any
"""A pytree of bool arrays with the structure of the parameters."""

Score = Callable[[Params, Params, jax.Array], Params]
"""`(params, gradients, key) -> scores` of the same structure; the largest are kept, or grown."""

Number = float | jax.Array
"""A real scalar: a Python number, or an array of shape () that may be traced."""

Count = int | jax.Array
"""A whole number: exact on the host, or uint32 on the device when it hangs on a traced value."""

Amount = Number | Callable[[jax.Array], Number]
"""A number, or an optax schedule `step -> number`."""

Ramp = Callable[[int, int, Number, Number], Callable[[jax.Array], Number]]
"""`(begin, end, final, initial) -> schedule` from `initial` at `begin` to `final` at `end`."""

When = Callable[[jax.Array], jax.Array]
"""`step -> bool`: whether the masks move at this step. Steps count from 0."""

Prunable = Callable[[str, jax.Array], bool]
"""`(path, leaf) -> bool`; the path is the leaf's keys joined by '/'."""


class Leaf(NamedTuple):
    """What a distribution is told of one prunable parameter.

    Attributes:
      path: The leaf's keys joined by '/'.
      shape: The shape of the parameter.
      scores: Scores that broadcast to `shape`; entries that live or die together share theirs.
        None where only the shapes are known.
      first: Entries that rank before all others whatever their score, or None for no preference.
    """

    path: str
    shape: tuple[int, ...]
    scores: jax.Array | None = None
    first: jax.Array | None = None


class Distribution(Protocol):
    """Shares one budget among the layers: how many entries each of them keeps."""

    def __call__(self, leaves: Sequence[Leaf], density: Number, /) -> Sequence[Count]:
        """Returns the number of entries that each leaf keeps, in the order of `leaves`."""


class Layer(NamedTuple):
    """What a redistribution is told of one layer whose connections move.

    Attributes:
      before: The connections before the update, a bool array.
      stays: Those of them that are not dropped.
      scores: The grow scores, of the same shape.
    """

    before: jax.Array
    stays: jax.Array
    scores: jax.Array


class Redistribution(Protocol):
    """Shares the dropped connections of all layers among them, to grow anew."""

    def __call__(self, layers: Sequence[Layer], /) -> Sequence[jax.Array]:
        """Returns a weight for each layer, not negative: its part of what grows."""


class Structure(NamedTuple):
    """Which entries of a parameter stand or fall together, and which compete with each other.

    `group` lays an array out so that the `axes` of the result are ranked: along them the k best
    survive, at each position of the other axes anew. `expand` carries a mask of that layout back to
    one that broadcasts to the parameter.

    Attributes:
      group: `array -> grouped array`; pools scores where several entries make one unit.
      expand: `(grouped mask, shape of the parameter) -> mask`.
      axes: The ranked axes of a grouped array with so many dimensions; None stands for all.
      check: Raises ValueError, saying why, for a shape that the structure does not fit.
      least: The fewest units that a row may keep.
      name: How messages call the structure.
      by_path: For a structure that differs from parameter to parameter: path -> structure. Its
        other functions are not to be called.
      patterns: The path patterns that it knows.
    """

    group: Callable[[jax.Array], jax.Array]
    expand: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    axes: Callable[[int], tuple[int, ...]]
    check: Callable[[tuple[int, ...]], None]
    least: int
    name: str
    by_path: Callable[[str], "Structure"] | None = None
    patterns: tuple[str, ...] = ()

    def at(self, path: str) -> "Structure":
        """Returns the structure of the parameter with this path."""
        return self if self.by_path is None else self.by_path(path)
