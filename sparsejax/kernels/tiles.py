"""Examples side by side: what the inner loops of `rows` work on.

A tile is (neurons, width): of each neuron `width` examples, one after the other in memory. So the
loops run along memory whatever the places of the weights are, and a tile is so small that it stays
in the cache of a core.
"""

import functools
from typing import Any

import numpy as np
from numba import carray, njit

from sparsejax.kernels import call_frame, rows

LINE = 64
"""Bytes that a cache takes in at once; tiles begin at a multiple of it."""

LINES = 16
"""How many neurons are turned together: as many as a line has."""

_CACHE = 256 * 1024  # bytes that a tile may have


@njit
def width(batch: int, neurons: int, number_bytes: int) -> int:
    """The widest tile that stays in the cache and is not mostly padding."""
    if batch <= 4:
        return 1 if batch == 1 else 4
    for each in rows.WIDTHS:
        fits = each <= 16 or each * neurons * number_bytes <= _CACHE
        if each > 8 and fits and -batch % each * 8 <= batch:
            return each
    return 8


@functools.cache
def _turned(dtype: str) -> Any:
    """Makes the transposition of examples into a tile, and back; XLA's own takes much longer."""
    square, copy = rows.square(dtype), rows.copy(dtype)
    side, number_bytes = rows.lanes(dtype), rows.BYTES[dtype]

    @njit
    def turned(
        source: int, source_step: int, height: int, width: int, target: int, target_step: int
    ) -> None:
        """Writes the columns of source as rows of target; the steps are bytes from row to row."""
        whole_height, whole_width = height - height % side, width - width % side
        # By lines of the cache, so that each is read or written while it is there.
        for first in range(0, whole_width, LINES):
            for i in range(0, whole_height, side):
                for j in range(first, min(first + LINES, whole_width), side):
                    square(
                        source + i * source_step + j * number_bytes,
                        source_step,
                        target + j * target_step + i * number_bytes,
                        target_step,
                    )
        for i in range(height):
            for j in range(whole_width if i < whole_height else 0, width):
                copy(
                    source + i * source_step + j * number_bytes,
                    target + j * target_step + i * number_bytes,
                )

    return turned


@functools.cache
def tiling(dtype: str) -> tuple[Any, Any]:
    """Makes two functions of `(examples, batch, neurons, width, tile, first, count, rows)`.

    The first writes `count` neurons from `first` on of the tile's examples, which begin at number
    `tile` × `width`, to `rows`, and zeros for examples that there are not. The second writes them
    back.
    """
    turned, number_bytes = _turned(dtype), rows.BYTES[dtype]

    @njit
    def part(
        examples: int, batch: int, neurons: int, width: int, tile: int, first: int
    ) -> tuple[int, int, int]:
        """Where a tile's examples begin, the bytes from one to the next, and how many there are."""
        line = neurons * number_bytes
        place = examples + tile * width * line + first * number_bytes
        return place, line, min(width, batch - tile * width)

    @njit
    def into(
        examples: int,
        batch: int,
        neurons: int,
        width: int,
        tile: int,
        first: int,
        count: int,
        rows: int,
    ) -> None:
        place, line, height = part(examples, batch, neurons, width, tile, first)
        step = width * number_bytes
        if height < width:
            carray(call_frame.pointer(rows), (count * step,), np.uint8)[:] = 0
        turned(place, line, height, count, rows, step)

    @njit
    def back(
        examples: int,
        batch: int,
        neurons: int,
        width: int,
        tile: int,
        first: int,
        count: int,
        rows: int,
    ) -> None:
        place, line, height = part(examples, batch, neurons, width, tile, first)
        turned(rows, width * number_bytes, count, height, place, line)

    return into, back
