"""Products with sparse matrices on the CPU: Numba's machine code, called by XLA itself.

Each thread has rows of the result, or of the gradient, and turns all examples into tiles for
itself. What it writes is its own, so no thread waits for another: that each of them makes a tile
takes less time than waiting would. And sums are always taken in the same order.
"""

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numba import carray, njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from sparsejax.kernels import call_frame, parallel, rows, tiles
from sparsejax.kernels.parallel import CHUNKS, FIRST, WORDS

_lock = threading.Lock()
_COST = 4  # entries that take as long as a row does beside its entries
_ENTRY = 16  # examples that take as long as an entry does beside its examples
_SMALL = 1 << 20  # in examples of entries, what one thread has done before a second one helps


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
            y = forward(x, jnp.array([2, 3], jnp.float32), order, pointers, sources, 2)
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


def find(mask: jax.Array, entries: int) -> tuple[jax.Array, ...]:
    """Returns where the entries of a mask are, by rows and by columns.

    Args:
      mask: (height, width), bool.
      entries: How many there are. Of more, the first are taken; of fewer, zeros come after them.

    Returns:
      Five arrays of int32: where each row starts, and the last one ends; the columns of the
      entries, row by row; the same for columns; and the places in the order of the rows that the
      entries have, column by column.
    """
    height, width = mask.shape
    shapes = [height + 1, entries, width + 1, entries, entries]
    outputs = [jax.ShapeDtypeStruct((n,), jnp.int32) for n in shapes]
    call = jax.ffi.ffi_call(_registered("find"), outputs, vmap_method="sequential")
    return tuple(call(mask))


def forward(
    x: jax.Array,
    values: jax.Array,
    order: jax.Array | None,
    pointers: jax.Array,
    sources: jax.Array,
    outputs: int,
) -> jax.Array:
    """Returns x @ w.

    Args:
      x: (batch, inputs), float32 or float64.
      values: The entries of w, of the same type.
      order: The places among them of the entries column by column, int32; None if that is how they
        are stored.
      pointers: Where each column starts, and the last one ends, int32.
      sources: The rows of the entries, column by column, uint16 or int32.
      outputs: Columns of w.
    """
    y = jax.ShapeDtypeStruct((x.shape[0], outputs), x.dtype)
    return _call("forward", y, order, sources, x, values, pointers)


def backward(
    x: jax.Array,
    dy: jax.Array,
    values: jax.Array,
    order: jax.Array | None,
    pointers: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of the inputs, dy @ w.T, and of the values, (x.T @ dy) at their places.

    Args:
      x: (batch, inputs), float32 or float64.
      dy: (batch, outputs), of the same type.
      values: The entries of w, likewise.
      order: The places among them of the entries row by row, int32; None if that is how they are
        stored.
      pointers: Where each row starts, and the last one ends, int32.
      targets: The columns of the entries, row by row, uint16 or int32.
    """
    gradients = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, values))
    dx, dvalues = _call("backward", gradients, order, targets, x, values, pointers, dy)
    return dx, dvalues


def _call(
    kind: str, results: Any, order: jax.Array | None, indices: jax.Array, *arguments: jax.Array
) -> Any:
    """Calls the handler for these types; an order of no entries stands for none."""
    name = _registered(kind, arguments[0].dtype.name, indices.dtype.name)
    order = jnp.zeros(0, jnp.int32) if order is None else order
    return jax.ffi.ffi_call(name, results)(indices, order, *arguments)


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


@njit
def _bound(start: Any, piece: int, pieces: int) -> int:
    """The row at which a piece begins, if rows are shared out by what they take."""
    count = len(start) - 1
    target = (start[count] + _COST * count) * piece // pieces
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if start[middle] + _COST * middle < target:
            low = middle + 1
        else:
            high = middle
    return low if piece < pieces else count


@functools.cache
def _picking(dtype: str) -> tuple[Any, Any]:
    """Makes two functions of `(values, order, begin, end, own)`.

    The first writes the values of the entries from `begin` to `end`, which lie where the order
    says, to `own`, one after the other. The second writes them back.
    """
    copy, number_bytes = rows.copy(dtype), rows.BYTES[dtype]

    @njit
    def pick(values: int, order: int, begin: int, end: int, own: int) -> None:
        places = carray(call_frame.pointer(order), (end,), np.int32)
        for k in range(begin, end):
            place = values + np.int64(places[k]) * number_bytes
            copy(place, own + (k - begin) * number_bytes)

    @njit
    def put(values: int, order: int, begin: int, end: int, own: int) -> None:
        places = carray(call_frame.pointer(order), (end,), np.int32)
        for k in range(begin, end):
            place = values + np.int64(places[k]) * number_bytes
            copy(own + (k - begin) * number_bytes, place)

    return pick, put


def _forward(dtype: str, index: str) -> Any:
    row, (into, back), (pick, _) = rows.forward(dtype, index), tiles.tiling(dtype), _picking(dtype)
    number_bytes, index_bytes = rows.BYTES[dtype], rows.INDEX_BYTES[index]

    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        for i in range(5):
            head[FIRST + i] = call_frame.data(call_frame.argument(frame, i))
        x, y = call_frame.argument(frame, 2), call_frame.result(frame, 0)
        batch, outputs = call_frame.size(y, 0), call_frame.size(y, 1)
        head[FIRST + 5], head[FIRST + 6] = call_frame.data(y), batch
        head[FIRST + 7], head[FIRST + 8] = call_frame.size(x, 1), outputs
        head[FIRST + 9] = tiles.width(batch, head[FIRST + 7], number_bytes)
        head[FIRST + 10] = call_frame.size(call_frame.argument(frame, 1), 0)
        entries = call_frame.size(call_frame.argument(frame, 3), 0)
        threads = threads if entries * (batch + _ENTRY) >= _SMALL else 1
        head[CHUNKS] = max(min(threads, outputs), 1)
        return threads

    @njit
    def chunk(job: int, piece: int) -> None:
        head = call_frame.words(job, WORDS)
        indices, order, x, values, pointers, y = to_fixed_tuple(head[FIRST : FIRST + 6], 6)
        batch, inputs, outputs, width, ordered = to_fixed_tuple(head[FIRST + 6 : FIRST + 11], 5)
        start = carray(call_frame.pointer(pointers), (outputs + 1,), np.int32)
        first, last = _bound(start, piece, head[CHUNKS]), _bound(start, piece + 1, head[CHUNKS])
        begin, end = np.int64(start[first]), np.int64(start[last])
        step = width * number_bytes
        own = (end - begin) * number_bytes if ordered > 0 else 0
        memory = call_frame.allocate((inputs + tiles.LINES) * step + own + tiles.LINE)
        tile = memory + (-memory & tiles.LINE - 1)
        block = tile + inputs * step
        weights = values + begin * number_bytes
        if ordered > 0:
            weights = block + tiles.LINES * step
            pick(values, order, begin, end, weights)
        for number in range(-(-batch // width)):
            into(x, batch, inputs, width, number, 0, inputs, tile)
            for top in range(first, last, tiles.LINES):
                count = min(tiles.LINES, last - top)
                for j in range(count):
                    entry = np.int64(start[top + j])
                    row(
                        width,
                        tile,
                        indices + entry * index_bytes,
                        weights + (entry - begin) * number_bytes,
                        np.int64(start[top + j + 1]) - entry,
                        block + j * step,
                    )
                back(y, batch, outputs, width, number, top, count, block)
        call_frame.release(memory)

    return parallel.handler(prepare, chunk)


def _backward(dtype: str, index: str) -> Any:
    row, (into, back), (pick, put) = (
        rows.backward(dtype, index),
        tiles.tiling(dtype),
        _picking(dtype),
    )
    number_bytes, index_bytes = rows.BYTES[dtype], rows.INDEX_BYTES[index]

    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        for i in range(6):
            head[FIRST + i] = call_frame.data(call_frame.argument(frame, i))
        x, dy = call_frame.argument(frame, 2), call_frame.argument(frame, 5)
        dvalues = call_frame.result(frame, 1)
        head[FIRST + 6] = call_frame.data(call_frame.result(frame, 0))
        head[FIRST + 7] = call_frame.data(dvalues)
        batch, inputs = call_frame.size(x, 0), call_frame.size(x, 1)
        outputs, entries = call_frame.size(dy, 1), call_frame.size(dvalues, 0)
        head[FIRST + 8], head[FIRST + 9], head[FIRST + 10] = batch, inputs, outputs
        head[FIRST + 11] = tiles.width(batch, outputs, number_bytes)
        head[FIRST + 12] = call_frame.size(call_frame.argument(frame, 1), 0)
        threads = threads if entries * (batch + _ENTRY) >= _SMALL else 1
        head[CHUNKS] = max(min(threads, inputs), 1)
        # Padding is in no row, and without examples no row is computed.
        start = carray(call_frame.pointer(head[FIRST + 4]), (inputs + 1,), np.int32)
        if start[inputs] < entries or batch == 0:
            zeros = carray(call_frame.pointer(head[FIRST + 7]), (entries * number_bytes,), np.uint8)
            zeros[:] = 0
        return threads

    @njit
    def chunk(job: int, piece: int) -> None:
        head = call_frame.words(job, WORDS)
        indices, order, x, values, pointers, dy = to_fixed_tuple(head[FIRST : FIRST + 6], 6)
        dx, dvalues, batch, inputs, outputs, width, ordered = to_fixed_tuple(
            head[FIRST + 6 : FIRST + 13], 7
        )
        start = carray(call_frame.pointer(pointers), (inputs + 1,), np.int32)
        first, last = _bound(start, piece, head[CHUNKS]), _bound(start, piece + 1, head[CHUNKS])
        begin, end = np.int64(start[first]), np.int64(start[last])
        step = width * number_bytes
        own = (end - begin) * number_bytes if ordered > 0 else 0
        memory = call_frame.allocate((outputs + 2 * tiles.LINES) * step + 2 * own + tiles.LINE)
        tile = memory + (-memory & tiles.LINE - 1)
        x_block = tile + outputs * step
        dx_block = x_block + tiles.LINES * step
        weights, gradients = values + begin * number_bytes, dvalues + begin * number_bytes
        if ordered > 0:
            weights = dx_block + tiles.LINES * step
            gradients = weights + own
            pick(values, order, begin, end, weights)
        for number in range(-(-batch // width)):
            into(dy, batch, outputs, width, number, 0, outputs, tile)
            for top in range(first, last, tiles.LINES):
                count = min(tiles.LINES, last - top)
                into(x, batch, inputs, width, number, top, count, x_block)
                for i in range(count):
                    entry = np.int64(start[top + i])
                    row(
                        width,
                        tile,
                        indices + entry * index_bytes,
                        weights + (entry - begin) * number_bytes,
                        np.int64(start[top + i + 1]) - entry,
                        dx_block + i * step,
                        x_block + i * step,
                        gradients + (entry - begin) * number_bytes,
                        np.int64(number > 0),
                    )
                back(dx, batch, inputs, width, number, top, count, dx_block)
        if ordered > 0 and batch > 0:
            put(dvalues, order, begin, end, gradients)
        call_frame.release(memory)

    return parallel.handler(prepare, chunk)


@njit
def _ints(address: int, count: int) -> Any:
    return carray(call_frame.pointer(address), (count,), np.int32)


@njit
def _rewind(pointers: Any) -> None:
    """Filling has moved each start to where the next row starts."""
    for i in range(len(pointers) - 1, 0, -1):
        pointers[i] = pointers[i - 1]
    pointers[0] = 0


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
    def starts(places: Any, valid: Any, pointers: Any) -> None:
        """Where each row starts, one place further on: it is moved while the rows are filled."""
        pointers[:] = 0
        for k in range(len(places)):
            if valid[k] >= 0:
                pointers[places[k] + 1] += 1
        for i in range(1, len(pointers)):
            pointers[i] += pointers[i - 1]

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        n, height, width = head[FIRST + 8], head[FIRST + 9], head[FIRST + 10]
        r, c = _ints(head[FIRST], n), _ints(head[FIRST + 1], n)
        row_starts, columns, by_row = (
            _ints(head[FIRST + 2], height + 1),
            _ints(head[FIRST + 3], n),
            _ints(head[FIRST + 4], n),
        )
        column_starts, rows_, by_column = (
            _ints(head[FIRST + 5], width + 1),
            _ints(head[FIRST + 6], n),
            _ints(head[FIRST + 7], n),
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
        _rewind(row_starts)
        _rewind(column_starts)
        # And taken in the order of the rows, each column has its rows in order.
        for p in range(total):
            k = by_row[p]
            place = column_starts[c[k]]
            by_column[place] = k
            rows_[place] = r[k]
            column_starts[c[k]] += 1
        _rewind(column_starts)
        rows_[total:] = 0

    return parallel.handler(prepare, chunk)


def _find() -> Any:
    @njit
    def prepare(frame: int, job: int, threads: int) -> int:
        head = call_frame.words(job, WORDS)
        mask = call_frame.argument(frame, 0)
        head[FIRST] = call_frame.data(mask)
        for i in range(5):
            head[FIRST + 1 + i] = call_frame.data(call_frame.result(frame, i))
        head[FIRST + 6], head[FIRST + 7] = call_frame.size(mask, 0), call_frame.size(mask, 1)
        head[FIRST + 8] = call_frame.size(call_frame.result(frame, 1), 0)
        head[CHUNKS] = 1
        return 1

    @njit
    def chunk(job: int, number: int) -> None:
        head = call_frame.words(job, WORDS)
        height, width, entries = head[FIRST + 6], head[FIRST + 7], head[FIRST + 8]
        mask = carray(call_frame.pointer(head[FIRST]), (height * width,), np.uint8)
        row_starts, columns = _ints(head[FIRST + 1], height + 1), _ints(head[FIRST + 2], entries)
        column_starts, rows_ = _ints(head[FIRST + 3], width + 1), _ints(head[FIRST + 4], entries)
        by_column = _ints(head[FIRST + 5], entries)
        columns[:], column_starts[:], rows_[:], by_column[:] = 0, 0, 0, 0
        found = 0
        for i in range(height):
            row_starts[i] = found
            for j in range(width):
                if mask[i * width + j] != 0 and found < entries:
                    columns[found] = j
                    column_starts[j + 1] += 1
                    found += 1
        row_starts[height] = found
        for j in range(width):
            column_starts[j + 1] += column_starts[j]
        for i in range(height):
            for k in range(row_starts[i], row_starts[i + 1]):
                place = column_starts[columns[k]]
                rows_[place], by_column[place] = i, k
                column_starts[columns[k]] += 1
        _rewind(column_starts)

    return parallel.handler(prepare, chunk)


_MAKERS: dict[str, Any] = {
    "sort": _sort,
    "find": _find,
    "forward": _forward,
    "backward": _backward,
}
