"""Which format is the smallest, for one parameter and for a whole tree."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.formats.bitmask import Bitmask
from sparsejax.formats.bsr import BSR
from sparsejax.formats.coo import COO
from sparsejax.formats.csr import CSC, CSR
from sparsejax.formats.dense import Dense
from sparsejax.formats.fan_in import FanIn
from sparsejax.formats.matrix import Format
from sparsejax.formats.nm import NM
from sparsejax.masks import path_name, spread
from sparsejax.typing import Masks, Params

# The simplest come first: they are taken where others are no smaller.
FORMATS: dict[str, Callable[[Any, Any], Format]] = {
    "dense": Dense.from_dense,
    "bitmask": Bitmask.from_dense,
    "csr": CSR.from_dense,
    "csc": CSC.from_dense,
    "coo": COO.from_dense,
    "fan-in": FanIn.from_dense,
    **{
        f"{n}:{m}": functools.partial(NM.from_dense, n=n, m=m)
        for n, m in ((1, 4), (2, 4), (1, 2), (3, 4))
    },
    **{
        f"bsr {side}": functools.partial(BSR.from_dense, block=(side, side))
        for side in (4, 8, 16, 32)
    },
}
"""By name, what makes a format from `(array, mask)`; ValueError for masks that do not fit."""


class Choice(NamedTuple):
    """A format, and what it takes.

    Attributes:
      name: How tables call it, one of `FORMATS`.
      nbytes: The bytes of the parameter in this format.
      make: `(array, mask) -> format`.
    """

    name: str
    nbytes: int
    make: Callable[[Any, Any], Format]


class Row(NamedTuple):
    """One parameter's sizes.

    Attributes:
      path: The leaf's keys joined by '/'.
      shape: Its shape.
      density: Kept entries / entries.
      sizes: Name of a format -> bytes, for those that the mask fits.
      best: The name of the smallest.
    """

    path: str
    shape: tuple[int, ...]
    density: float
    sizes: dict[str, int]
    best: str


class Table(tuple[Row, ...]):
    """The rows of all parameters of a tree; `str` lays them out as text."""

    __slots__ = ()

    @property
    def dense(self) -> int:
        """Bytes of the dense tree."""
        return sum(row.sizes["dense"] for row in self)

    @property
    def smallest(self) -> int:
        """Bytes of the tree with each parameter in its smallest format."""
        return sum(row.sizes[row.best] for row in self)

    def __str__(self) -> str:
        cells = [("parameter", "shape", "density", "dense", "smallest", "format")]
        cells += [
            (
                row.path,
                "x".join(map(str, row.shape)),
                f"{row.density:.4f}",
                f"{row.sizes['dense']:,}",
                f"{row.sizes[row.best]:,}",
                row.best,
            )
            for row in self
        ]
        cells.append(("total", "", "", f"{self.dense:,}", f"{self.smallest:,}", ""))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join(lines)


def sizes(mask: Any, dtype: Any) -> dict[str, int]:
    """Returns what a parameter takes in each format.

    Args:
      mask: Its mask, with the shape of the parameter.
      dtype: The type of its entries.

    Returns:
      Name of a format -> bytes, for the formats that the mask fits.

    >>> sizes(np.eye(8, dtype=bool), np.float32)["bitmask"]
    40
    """
    found = {}
    array = np.zeros(np.shape(mask), dtype)
    for name, make in FORMATS.items():
        try:
            found[name] = make(array, mask).nbytes
        except ValueError:  # N:M and constant fan-in do not fit every mask.
            continue
    return found


def choose(mask: Any, dtype: Any) -> Choice:
    """Returns the smallest format for a parameter with this mask.

    Args:
      mask: Booleans, with the shape of the parameter.
      dtype: The type of its entries.

    Raises:
      ValueError: if the mask is traced, or not of booleans.

    >>> choose(np.eye(64, dtype=bool), np.float32).name, choose(np.ones(9, bool), np.int8).name
    ('coo', 'dense')
    """
    Dense.from_dense(np.zeros(np.shape(mask), dtype), mask)  # for its errors
    found = sizes(mask, dtype)
    best = min(found, key=lambda name: found[name])
    return Choice(best, found[best], FORMATS[best])


def table(params: Params, masks: Masks) -> Table:
    """Returns what each parameter of a tree takes in each format.

    Args:
      params: The parameters, or their shapes and dtypes.
      masks: The mask tree; a scalar True marks a parameter that stays dense.

    >>> params = {"kernel": np.ones((64, 64), np.float32), "bias": np.ones(64, np.float32)}
    >>> print(table(params, {"kernel": np.eye(64, dtype=bool), "bias": np.array(True)}))
    parameter  shape  density  dense   smallest  format
    bias       64     1.0000   256     256       dense
    kernel     64x64  0.0156   16,384  384       coo
    total                      16,640  640
    """
    rows = []
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), mask in zip(leaves, jax.tree.leaves(spread(masks, params)), strict=True):
        full = np.broadcast_to(np.asarray(mask), leaf.shape)
        found = sizes(full, leaf.dtype)
        best = min(found, key=lambda name: found[name])
        density = float(full.mean()) if full.size else 1.0
        rows.append(Row(path_name(path), leaf.shape, density, found, best))
    return Table(rows)
