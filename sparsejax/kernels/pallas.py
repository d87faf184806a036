"""Products with blocks on a GPU: kernels in Pallas, which its Triton backend compiles.

A layer y = x w has three products. Each is the derivative, by one of the three, of the same number

    T(x, w, y) = sum over stored blocks of x[:, rows] · w[rows, columns] · y[:, columns],

and the derivatives of each are again the others, so that three kernels are all there is to
differentiate, in reverse mode and as often as wanted. Only stored blocks are read and written.

Triton's tiles have powers of two as sizes, and its matrix product has at least 16 on each side:
smaller blocks are filled up with zeros on the way, larger ones are taken in parts, and what is
beyond the end of a block or of an array is masked.

From jax 0.11 on the Triton backend is deprecated, and jax says so when it makes a program with it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from sparsejax.formats import matrix
from sparsejax.formats.bsr import BSR

# How long a side of a tile is: Triton needs the least, and the most fits into registers.
_LEAST, _MOST = 16, 64


class _Sizes(NamedTuple):
    inputs: int
    outputs: int
    height: int
    width: int
    interpret: bool


class _Places(NamedTuple):
    """Where the blocks are: as they are stored, row by row, and the order that is by columns."""

    rows: jax.Array
    columns: jax.Array
    row_pointers: jax.Array
    column_pointers: jax.Array
    by_column: jax.Array


def block_matmul(x: jax.Array, w: BSR, *, interpret: bool = False) -> jax.Array:
    """Multiplies with a matrix of blocks: x @ w.

    Sums are of float32, and of the precision that `jax.default_matmul_precision` sets. The program
    sorts the blocks by columns each time.

    Args:
      x: (examples, inputs), of float32, bfloat16 or float16.
      w: Blocks of any size, best a power of two from 16 on. They are rounded to the type of x.
      interpret: Runs the kernels step by step, slowly, on any device: to test them.

    Returns:
      (examples, outputs), of the type of x.

    >>> w = BSR.from_dense(jnp.array([[1.0, 2.0, 0.0]]), jnp.array([True, True, False]), (1, 2))
    >>> block_matmul(jnp.array([[1.0], [2.0]]), w, interpret=True).tolist()
    [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]
    """
    inputs, outputs = matrix.view(w.shape)
    if 0 in (*x.shape, *w.values.shape):
        return jnp.zeros((x.shape[0], outputs), x.dtype)
    rows = matrix.expand_pointers(w.pointers, len(w.values))
    columns = w.indices.astype(jnp.int32)
    by_column = jnp.argsort(columns, stable=True).astype(jnp.int32)
    ends = jnp.arange(pl.cdiv(outputs, w.block[1]) + 1, dtype=jnp.int32)
    column_pointers = jnp.searchsorted(columns[by_column], ends).astype(jnp.int32)
    places = _Places(rows, columns, w.pointers.astype(jnp.int32), column_pointers, by_column)
    sizes = _Sizes(inputs, outputs, *w.block, interpret)
    return _derivative("y", sizes, {"x": x, "w": w.values.astype(x.dtype)}, places)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _derivative(by: str, sizes: _Sizes, others: dict[str, jax.Array], places: _Places) -> jax.Array:
    """The derivative of T by "x", "w" or "y", given the other two."""
    blocks = jnp.arange(len(places.rows), dtype=jnp.int32)
    if by == "y":
        operands = places.column_pointers, places.by_column, places.rows
        return _sums(others["x"], others["w"], *operands, sizes.outputs, False, sizes.interpret)
    if by == "x":
        operands = places.row_pointers, blocks, places.columns
        return _sums(others["y"], others["w"], *operands, sizes.inputs, True, sizes.interpret)
    return _samples(others["x"], others["y"], places.rows, places.columns, sizes)


def _derivative_forward(by: str, sizes: _Sizes, others: Any, places: _Places) -> Any:
    return _derivative(by, sizes, others, places), (others, places)


def _derivative_backward(by: str, sizes: _Sizes, residuals: Any, cotangent: jax.Array) -> Any:
    others, places = residuals
    known = {**others, by: cotangent}
    gradients = {}
    for name in others:
        given = {other: known[other] for other in known if other != name}
        gradients[name] = _derivative(name, sizes, given, places)
    return gradients, None


_derivative.defvjp(_derivative_forward, _derivative_backward)


class _Span(NamedTuple):
    """So many indices from a start on, of which only those before a stop are meant."""

    start: Any
    stop: Any
    size: int


def _load(ref: Any, *index: Any) -> jax.Array:
    """Reads a part of an array, with zeros at what is not meant."""
    ref, mask = _part(ref, index)
    return triton.load(ref, mask=mask, other=0.0)


def _store(ref: Any, part: jax.Array, *index: Any) -> None:
    ref, mask = _part(ref, index)
    triton.store(ref, part.astype(ref.dtype), mask=mask)


def _part(ref: Any, index: tuple[Any, ...]) -> Any:
    rows, columns = (s.start + jnp.arange(s.size, dtype=jnp.int32) < s.stop for s in index[-2:])
    slices = (pl.ds(s.start, s.size) for s in index[-2:])
    return ref.at[(*index[:-2], *slices)], rows[:, None] & columns[None, :]


def _sums(
    x: jax.Array,
    values: jax.Array,
    pointers: jax.Array,
    blocks: jax.Array,
    across: jax.Array,
    outputs: int,
    transpose: bool,
    interpret: bool,
) -> jax.Array:
    """A product with a matrix, or with the transposed one.

    Args:
      x: (examples, inputs).
      values: The blocks.
      pointers: Where each column of blocks starts, and the last one ends.
      blocks: The blocks' numbers, column by column.
      across: The row of each block.
      outputs: The columns.
      transpose: Whether the blocks are to be transposed; their rows are then called columns.
      interpret: As in `block_matmul`.
    """
    height, width = values.shape[:0:-1] if transpose else values.shape[1:]
    examples, inner, outer = _tile(x.shape[0]), _tile(height), _tile(width)
    inner_parts = np.int32(pl.cdiv(height, inner))  # of 32 bits, as pointers are, in x64 too

    def kernel(x: Any, values: Any, pointers: Any, blocks: Any, across: Any, y: Any) -> None:
        batch = _Span(pl.program_id(0) * examples, x.shape[0], examples)
        column, offset = pl.program_id(1), pl.program_id(2) * outer
        end = jnp.minimum(width, outputs - column * width)

        def add(i: Any, total: jax.Array) -> jax.Array:
            block = blocks[jax.lax.div(i, inner_parts)]
            within = jax.lax.rem(i, inner_parts) * inner
            start = across[block] * height
            stop = jnp.minimum(height, x.shape[1] - start)
            left = _load(x, batch, _Span(start + within, start + stop, inner))
            spans = _Span(within, stop, inner), _Span(offset, end, outer)
            right = _load(values, block, *(spans[::-1] if transpose else spans))
            return total + _dot(left, right, 1, int(transpose))

        first, last = pointers[column] * inner_parts, pointers[column + 1] * inner_parts
        total = jax.lax.fori_loop(first, last, add, jnp.zeros((examples, outer), jnp.float32))
        start = column * width
        _store(y, total, batch, _Span(start + offset, start + end, outer))

    grid = pl.cdiv(x.shape[0], examples), len(pointers) - 1, pl.cdiv(width, outer)
    shape = jax.ShapeDtypeStruct((x.shape[0], outputs), x.dtype)
    return _call(kernel, grid, shape, interpret)(x, values, pointers, blocks, across)


def _samples(
    x: jax.Array, dy: jax.Array, rows: jax.Array, columns: jax.Array, sizes: _Sizes
) -> jax.Array:
    """The product x^T dy, at the blocks in the given rows and columns only."""
    _, _, height, width, interpret = sizes
    examples, inner, outer = _tile(x.shape[0]), _tile(height), _tile(width)

    def kernel(x: Any, dy: Any, rows: Any, columns: Any, values: Any) -> None:
        block = pl.program_id(0)
        row, column = rows[block] * height, columns[block] * width
        above, left = pl.program_id(1) * inner, pl.program_id(2) * outer
        row_end = jnp.minimum(row + height, x.shape[1])
        column_end = jnp.minimum(column + width, dy.shape[1])

        def add(i: Any, total: jax.Array) -> jax.Array:
            batch = _Span(i * examples, x.shape[0], examples)
            some_x = _load(x, batch, _Span(row + above, row_end, inner))
            some_dy = _load(dy, batch, _Span(column + left, column_end, outer))
            return total + _dot(some_x, some_dy, 0, 0)

        zeros = jnp.zeros((inner, outer), jnp.float32)
        batches = np.int32(pl.cdiv(x.shape[0], examples))
        total = jax.lax.fori_loop(np.int32(0), batches, add, zeros)
        _store(values, total, block, _Span(above, height, inner), _Span(left, width, outer))

    grid = len(rows), pl.cdiv(height, inner), pl.cdiv(width, outer)
    shape = jax.ShapeDtypeStruct((len(rows), height, width), x.dtype)
    return _call(kernel, grid, shape, interpret)(x, dy, rows, columns)


def _tile(size: int) -> int:
    return min(max(pl.next_power_of_2(size), _LEAST), _MOST)


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    contracted = ((a_axis,), (b_axis,)), ((), ())
    return jax.lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _call(kernel: Any, grid: Any, shape: Any, interpret: bool) -> Any:
    # Two stages of the largest tiles fit into the 64 kB of memory that any GPU shares in a block.
    parameters = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(kernel, shape, grid=grid, compiler_params=parameters, interpret=interpret)
