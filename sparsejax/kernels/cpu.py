"""Products with sparse matrices on the CPU: Numba's machine code, called by XLA itself.

Arrays of examples go in as tiles, (tiles, neurons, width): of each neuron `width` examples side by
side. So the inner loops run along memory, whatever the places of the weights are, and a tile of one
layer stays in a core's cache.
"""

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numba import carray, njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from sparsejax.kernels import call_frame, parallel, rows
from sparsejax.kernels.parallel import CHUNKS, FIRST, WORDS

_lock = threading.Lock()
_ROW = 256  # bytes of a row, so that it stays in registers
_CACHE = 256 * 1024  # bytes of a tile, so that it stays in the cache of a core
_BLOCK = 256  # neurons that a thread transposes in one go
_LINES = 16  # of them side by side
_CHUNKS = 8  # a thread, so that all end at about the same time
_SMALL = 1 << 16  # operations that one thread has done before a second one comes to help


@functools.cache
def why_not() -> str | None:
    """Returns why these kernels cannot be used on this machine, or None if they can."""
    reason = call_frame.why_not()
    if reason is not None:
        return reason
    try:
        with jax.ensure_compile_time_eval():  # also where a program is just being traced
            weights = np.array([[0, 2], [3, 0], [0, 0]], np.float32)
            places = jnp.array([0, 1], jnp.int32), jnp.array([1, 0], jnp.int32)
            x = jnp.arange(27, dtype=jnp.float32).reshape(9, 3)
            *_, pointers, sources, order = sort(*places, 3, 2)
            y = forward(x, jnp.array([2, 3], jnp.float32)[order], pointers, sources, 2)
            right = np.allclose(y, x @ weights)
    except Exception as error:
        return f"the kernels could not be made or called: {error}"
    return None if right else "the kernels do not compute here what they should"


def sort(r: jax.Array, c: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
    """Returns the order of entries by rows, and by columns, of a matrix.

    Args:
      r: int32, the row of each entry; those outside the matrix are left out.
      c: int32, its column.
      height: Rows of the matrix.
      width: Columns of it.

    Returns:
      Six arrays of int32: where each row starts, and the last one ends; the columns of the entries,
      row by row; the places that these have among the entries given; then the same for columns.
    """
    entries = len(r)
    shapes = [height + 1, entries, entries, width + 1, entries, entries]
    name = _registered("sort")
    outputs = [jax.ShapeDtypeStruct((n,), jnp.int32) for n in shapes]
    return tuple(jax.ffi.ffi_call(name, outputs, vmap_method="sequential")(r, c))


def forward(
    x: jax.Array, values: jax.Array, pointers: jax.Array, sources: jax.Array, outputs: int
) -> jax.Array:
    """Returns x @ w.

    Args:
      x: (batch, inputs), float32 or float64.
      values: The entries of w column by column, of the same type.
      pointers: Where each column starts, and the last one ends, int32.
      sources: The rows of the entries, uint16 or int32.
      outputs: Columns of w.
    """
    batch, inputs = x.shape
    width = _width(batch, inputs, x.dtype.itemsize)
    tiles = _tile(x, width)
    y = jax.ShapeDtypeStruct((tiles.shape[0], outputs, width), x.dtype)
    call = jax.ffi.ffi_call(_registered("forward", x.dtype.name, sources.dtype.name), y)
    return _untile(call(tiles, values, pointers, sources), batch)


def backward(
    x: jax.Array, dy: jax.Array, values: jax.Array, pointers: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of the inputs, dy @ w.T, and of the values, (x.T @ dy) at their places.

    Args:
      x: (batch, inputs), float32 or float64.
      dy: (batch, outputs), of the same type.
      values: The entries of w row by row, likewise.
      pointers: Where each row starts, and the last one ends, int32.
      targets: The columns of the entries, uint16 or int32.
    """
    batch, outputs = dy.shape
    width = _width(batch, outputs, x.dtype.itemsize)
    tiles, gradients = _tile(x, width), _tile(dy, width)
    shapes = (
        jax.ShapeDtypeStruct(tiles.shape, x.dtype),
        jax.ShapeDtypeStruct(values.shape, x.dtype),
    )
    call = jax.ffi.ffi_call(_registered("backward", x.dtype.name, targets.dtype.name), shapes)
    dx, dvalues = call(tiles, gradients, values, pointers, targets)
    return _untile(dx, batch), dvalues


def _width(batch: int, neurons: int, bytes_each: int) -> int:
    """The widest tile that stays in the cache and is not mostly padding."""
    if batch <= 4:
        return 1 if batch == 1 else 4
    fitting = [
        width
        for width in rows.WIDTHS
        if width <= 16 or (width * neurons * bytes_each <= _CACHE and width * bytes_each <= _ROW)
    ]
    return next((w for w in fitting if -batch % w <= batch / 8 and w > 8), 8)


def _tile(x: jax.Array, width: int) -> jax.Array:
    """(batch, neurons) as tiles, filled up with zeros."""
    batch, neurons = x.shape
    if width == 1:
        return x.reshape(batch, neurons, 1)
    tiles = jax.ShapeDtypeStruct((-(-batch // width), neurons, width), x.dtype)
    return jax.ffi.ffi_call(_registered("tile", x.dtype.name), tiles)(x)


def _untile(tiles: jax.Array, batch: int) -> jax.Array:
    """And back: what fills up is left out."""
    if tiles.shape[2] == 1:
        return tiles.reshape(batch, tiles.shape[1])
    x = jax.ShapeDtypeStruct((batch, tiles.shape[1]), tiles.dtype)
    return jax.ffi.ffi_call(_registered("untile", tiles.dtype.name), x)(tiles)


@functools.cache
def _registered(kind: str, *dtypes: str) -> str:
    """The name of a handler, which is made when it is first needed."""
    name = "_".join(["sparsejax", kind, *dtypes])
    with _lock:
        if name not in _names:
            parallel.register(name, _MAKERS[kind](*dtypes))
            _names.add(name)
    return name


_names: set[str] = set()


def _forward(dtype: str, index: str) -> Any:
    row = rows.forward(dtype, index)
    number_bytes, index_bytes = rows.BYTES[dtype], rows.INDEX_BYTES[index]

    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        for i in range(4):
            head[FIRST + i] = call_frame.data(call_frame.argument(frame, i))
        tiles, y = call_frame.argument(frame, 0), call_frame.result(frame, 0)
        head[FIRST + 4] = call_frame.data(y)
        head[FIRST + 5] = call_frame.size(tiles, 1)
        outputs = call_frame.size(y, 1)
        head[FIRST + 6] = outputs
        count, width = call_frame.size(tiles, 0), call_frame.size(tiles, 2)
        if call_frame.size(call_frame.argument(frame, 1), 0) * count * width < _SMALL:
            threads = 1
        pieces = 1 if threads == 1 else min(max(_CHUNKS * threads // max(count, 1), 1), outputs)
        each = max(-(-outputs // max(pieces, 1)), 1)
        head[FIRST + 7], head[FIRST + 8] = each, width
        head[CHUNKS] = count * -(-outputs // each)
        return threads

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        tiles, values, pointers, sources, y, inputs, outputs, each, width = to_fixed_tuple(
            head[FIRST : FIRST + 9], 9
        )
        step = width * number_bytes
        pieces = -(-outputs // each)
        tile, first = number // pieces, number % pieces * each
        start = carray(call_frame.pointer(pointers), (outputs + 1,), np.int32)
        for j in range(first, min(first + each, outputs)):
            begin = np.int64(start[j])
            row(
                width,
                tiles + tile * inputs * step,
                sources + index_bytes * begin,
                values + number_bytes * begin,
                np.int64(start[j + 1]) - begin,
                y + (tile * outputs + j) * step,
            )

    return parallel.handler(prepare, chunk)


def _backward(dtype: str, index: str) -> Any:
    row = rows.backward(dtype, index)
    number_bytes, index_bytes = rows.BYTES[dtype], rows.INDEX_BYTES[index]

    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        for i in range(5):
            head[FIRST + i] = call_frame.data(call_frame.argument(frame, i))
        x, dy = call_frame.argument(frame, 0), call_frame.argument(frame, 1)
        dvalues = call_frame.result(frame, 1)
        head[FIRST + 5] = call_frame.data(call_frame.result(frame, 0))
        head[FIRST + 6] = call_frame.data(dvalues)
        head[FIRST + 7] = call_frame.size(x, 0)
        inputs = call_frame.size(x, 1)
        head[FIRST + 8] = inputs
        head[FIRST + 9] = call_frame.size(dy, 1)
        entries, width = call_frame.size(dvalues, 0), call_frame.size(x, 2)
        if entries * head[FIRST + 7] * width < _SMALL:
            threads = 1
        each = max(-(-inputs // (1 if threads == 1 else _CHUNKS * threads)), 1)
        head[FIRST + 10], head[FIRST + 11] = each, width
        head[CHUNKS] = -(-inputs // each)
        # Padding is in no row, and without examples no row is computed.
        start = carray(call_frame.pointer(head[FIRST + 3]), (inputs + 1,), np.int32)
        if start[inputs] < entries or head[FIRST + 7] == 0:
            zeros = carray(call_frame.pointer(head[FIRST + 6]), (entries * number_bytes,), np.uint8)
            zeros[:] = 0
        return threads

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        x, dy, values, pointers, targets = to_fixed_tuple(head[FIRST : FIRST + 5], 5)
        dx, dvalues, count, inputs, outputs, each, width = to_fixed_tuple(
            head[FIRST + 5 : FIRST + 12], 7
        )
        start = carray(call_frame.pointer(pointers), (inputs + 1,), np.int32)
        step = width * number_bytes
        first = number * each
        for tile in range(count):
            for i in range(first, min(first + each, inputs)):
                begin = np.int64(start[i])
                row(
                    width,
                    dy + tile * outputs * step,
                    targets + index_bytes * begin,
                    values + number_bytes * begin,
                    np.int64(start[i + 1]) - begin,
                    dx + (tile * inputs + i) * step,
                    x + (tile * inputs + i) * step,
                    dvalues + number_bytes * begin,
                    np.int64(tile > 0),
                )

    return parallel.handler(prepare, chunk)


def _tiling(dtype: str, back: bool) -> Any:
    """Makes the transposition into tiles, or back: XLA's own takes several times as long."""
    kind = np.dtype(dtype).type

    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        tiles, x = call_frame.result(frame, 0), call_frame.argument(frame, 0)
        if back:
            tiles, x = x, tiles
        head[FIRST], head[FIRST + 1] = call_frame.data(tiles), call_frame.data(x)
        for axis in range(3):
            head[FIRST + 2 + axis] = call_frame.size(tiles, axis)
        head[FIRST + 5] = call_frame.size(x, 0)
        head[CHUNKS] = head[FIRST + 2] * -(-head[FIRST + 3] // _BLOCK)
        return threads if head[FIRST + 3] * head[FIRST + 5] >= _SMALL else 1

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        count, neurons, width, batch = to_fixed_tuple(head[FIRST + 2 : FIRST + 6], 4)
        tiles = carray(call_frame.pointer(head[FIRST]), (count, neurons, width), kind)
        x = carray(call_frame.pointer(head[FIRST + 1]), (batch, neurons), kind)
        blocks = -(-neurons // _BLOCK)
        tile, start = number // blocks, number % blocks * _BLOCK
        examples = min(width, batch - tile * width)
        # So few neurons at once that their lines stay in the innermost cache.
        for first in range(start, min(start + _BLOCK, neurons), _LINES):
            last = min(first + _LINES, neurons)
            for b in range(examples):
                for i in range(first, last):
                    if back:
                        x[tile * width + b, i] = tiles[tile, i, b]
                    else:
                        tiles[tile, i, b] = x[tile * width + b, i]
            if not back:
                for i in range(first, last):
                    for b in range(examples, width):
                        tiles[tile, i, b] = 0

    return parallel.handler(prepare, chunk)


def _sort() -> Any:
    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        for i in range(2):
            head[FIRST + i] = call_frame.data(call_frame.argument(frame, i))
        for i in range(6):
            head[FIRST + 2 + i] = call_frame.data(call_frame.result(frame, i))
        head[FIRST + 8] = call_frame.size(call_frame.argument(frame, 0), 0)
        head[FIRST + 9] = call_frame.size(call_frame.result(frame, 0), 0) - 1
        head[FIRST + 10] = call_frame.size(call_frame.result(frame, 3), 0) - 1
        head[CHUNKS] = 1
        return 1

    @njit
    def ints(address: int, count: int) -> Any:
        return carray(call_frame.pointer(address), (count,), np.int32)

    @njit
    def starts(places: Any, valid: Any, pointers: Any) -> None:
        """Where each row starts, one place further on: it is moved while the rows are filled."""
        pointers[:] = 0
        for k in range(len(places)):
            if valid[k] >= 0:
                pointers[places[k] + 1] += 1
        for i in range(1, len(pointers)):
            pointers[i] += pointers[i - 1]

    @njit
    def rewind(pointers: Any) -> None:
        """Filling has moved each start to where the next row starts."""
        for i in range(len(pointers) - 1, 0, -1):
            pointers[i] = pointers[i - 1]
        pointers[0] = 0

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        n, height, width = head[FIRST + 8], head[FIRST + 9], head[FIRST + 10]
        r, c = ints(head[FIRST], n), ints(head[FIRST + 1], n)
        row_starts, columns, by_row = (
            ints(head[FIRST + 2], height + 1),
            ints(head[FIRST + 3], n),
            ints(head[FIRST + 4], n),
        )
        column_starts, rows_, by_column = (
            ints(head[FIRST + 5], width + 1),
            ints(head[FIRST + 6], n),
            ints(head[FIRST + 7], n),
        )
        columns[:], by_row[:], rows_[:], by_column[:] = 0, 0, 0, 0
        # `rows_` marks first which entries lie in the matrix.
        for k in range(n):
            rows_[k] = 0 if 0 <= r[k] < height and 0 <= c[k] < width else -1
        starts(r, rows_, row_starts)
        starts(c, rows_, column_starts)
        total = row_starts[height]
        # By columns first; taken in that order, each row has its columns in order.
        for k in range(n):
            if rows_[k] >= 0:
                by_column[column_starts[c[k]]] = k
                column_starts[c[k]] += 1
        for p in range(total):
            k = by_column[p]
            by_row[row_starts[r[k]]] = k
            columns[row_starts[r[k]]] = c[k]
            row_starts[r[k]] += 1
        rewind(row_starts)
        rewind(column_starts)
        # And taken in the order of the rows, each column has its rows in order.
        for p in range(total):
            k = by_row[p]
            place = column_starts[c[k]]
            by_column[place] = k
            rows_[place] = r[k]
            column_starts[c[k]] += 1
        rewind(column_starts)
        rows_[total:] = 0

    return parallel.handler(prepare, chunk)


_MAKERS: dict[str, Any] = {
    "sort": _sort,
    "tile": functools.partial(_tiling, back=False),
    "untile": functools.partial(_tiling, back=True),
    "forward": _forward,
    "backward": _backward,
}
