"""The inner loops, on rows of a tile: so many examples of one neuron, side by side in memory.

They are written in LLVM's language, since only there can a whole row be held in registers while the
weights go by: each weight is spread over a register, and the rows of the tile are read once.
"""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD, _LANE = ir.IntType(64), ir.IntType(32)
_INDICES = {"uint16": ir.IntType(16), "int32": ir.IntType(32)}
INDEX_BYTES = {"uint16": 2, "int32": 4}
"""Types of the indices of rows of a tile."""

_NUMBERS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
BYTES = {"float32": 4, "float64": 8}
WIDTHS = (64, 32, 16, 8, 4, 1)
"""How many examples a row of a tile may have."""

_REGISTER = 32  # bytes of a vector; where registers have another size, LLVM splits or joins them
# Sums may be taken in any order, and a product and a sum in one step.
_FAST = ("reassoc", "nsz", "contract")


@functools.cache
def forward(dtype: str, index: str) -> Any:
    """Makes the loop that computes one row of a product with a sparse matrix.

    Args:
      dtype: "float32" or "float64".
      index: "uint16" or "int32".

    Returns:
      In machine code `(width, tile, indices, values, count, out)`, where `width`, one of `WIDTHS`,
      is the examples in a row, and all others but `count` are addresses. It sets out[:] to the sum
      over k of values[k] × tile[indices[k], :].
    """

    @intrinsic
    def row(context, width, tile, indices, values, count, out):  # type: ignore[no-untyped-def]
        del context, width, tile, indices, values, count, out
        return types.none(*[types.int64] * 6), _for_each_width(dtype, index, _forward)

    return row


@functools.cache
def backward(dtype: str, index: str) -> Any:
    """Makes the loop that carries one row of a product's gradient back.

    Args:
      dtype: "float32" or "float64".
      index: "uint16" or "int32".

    Returns:
      In machine code `(width, tile, indices, values, count, out, x, gradient, add)`, which does
      what `forward` does, and on the same reading of the tile sets gradient[k] to the product of
      x[:] and tile[indices[k], :], on top of what was there if `add` is not 0.
    """

    @intrinsic
    def row(  # type: ignore[no-untyped-def]
        context, width, tile, indices, values, count, out, x, gradient, add
    ):
        del context, width, tile, indices, values, count, out, x, gradient, add
        return types.none(*[types.int64] * 9), _for_each_width(dtype, index, _backward)

    return row


def _for_each_width(dtype: str, index: str, write: Callable[..., None]) -> Callable[..., Any]:
    """One loop for each width, of which the one is run that is asked for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        width, *others = arguments
        for each in WIDTHS:
            with builder.if_then(builder.icmp_signed("==", width, ir.Constant(_WORD, each))):
                write(_Maker(builder, each, dtype, index), *others)
        return context.get_dummy_value()

    return generate


def _forward(make: "_Maker", tile: Any, indices: Any, values: Any, count: Any, out: Any) -> None:
    def body(k: Any, totals: list[Any]) -> list[Any]:
        weight = make.spread(make.load(make.at(values, k)))
        neighbour = make.row(tile, make.index(indices, k))
        return [
            make.add_product(total, weight, make.load(place))
            for total, place in zip(totals, neighbour, strict=True)
        ]

    make.store(make.loop(count, body), make.row(out))


def _backward(
    make: "_Maker",
    tile: Any,
    indices: Any,
    values: Any,
    count: Any,
    out: Any,
    x: Any,
    gradient: Any,
    add: Any,
) -> None:
    builder = make.builder
    adds = builder.icmp_signed("!=", add, ir.Constant(_WORD, 0))
    inputs = make.row(x)

    def body(k: Any, totals: list[Any]) -> list[Any]:
        weight = make.spread(make.load(make.at(values, k)))
        neighbours = make.row(tile, make.index(indices, k))
        # Two sums, so that one need not wait for the other.
        sums: list[Any] = [None, None]
        new = []
        for number, (total, neighbour) in enumerate(zip(totals, neighbours, strict=True)):
            vector = make.load(neighbour)
            new.append(make.add_product(total, weight, vector))
            sums[number % 2] = make.add_product(sums[number % 2], make.load(inputs[number]), vector)
        product = sums[0] if sums[1] is None else builder.fadd(*sums, flags=_FAST)
        there = make.at(gradient, k)
        before = builder.select(adds, make.load(there), ir.Constant(make.number, 0.0))
        builder.store(builder.fadd(before, make.total(product)), there)
        return new

    make.store(make.loop(count, body), make.row(out))


class _Maker:
    """Writes the few kinds of instructions that the loops are made of."""

    def __init__(self, builder: Any, width: int, dtype: str, index: str):
        self.builder = builder
        self.place = _INDICES[index]
        self.signed = index == "int32"
        self.width = width
        self.number = _NUMBERS[dtype]
        self.bytes = BYTES[dtype]
        self.lanes = min(width, _REGISTER // self.bytes)
        self.vector = ir.VectorType(self.number, self.lanes)

    def at(self, address: Any, index: Any) -> Any:
        """The place of a number in an array of them."""
        array = self.builder.inttoptr(address, self.number.as_pointer())
        return self.builder.gep(array, [index])

    def index(self, address: Any, k: Any) -> Any:
        """The k-th entry of an array of indices."""
        array = self.builder.inttoptr(address, self.place.as_pointer())
        widen = self.builder.sext if self.signed else self.builder.zext
        return widen(self.builder.load(self.builder.gep(array, [k])), _WORD)

    def row(self, address: Any, index: Any = None) -> list[Any]:
        """The places of the vectors of a row of a tile."""
        index = ir.Constant(_WORD, 0) if index is None else index
        first = self.builder.mul(index, ir.Constant(_WORD, self.width))
        start = self.at(address, first)
        return [
            self.builder.bitcast(
                self.builder.gep(start, [ir.Constant(_WORD, lane)]), self.vector.as_pointer()
            )
            for lane in range(0, self.width, self.lanes)
        ]

    def load(self, address: Any) -> Any:
        return self.builder.load(address, align=self.bytes)

    def store(self, vectors: list[Any], places: list[Any]) -> None:
        for vector, place in zip(vectors, places, strict=True):
            self.builder.store(vector, place, align=self.bytes)

    def spread(self, number: Any) -> Any:
        """A vector of one number, again and again."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, number, ir.Constant(_LANE, 0))
        zeros = ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, nothing, zeros)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        product = self.builder.fmul(a, b, flags=_FAST)
        return product if total is None else self.builder.fadd(total, product, flags=_FAST)

    def total(self, vector: Any) -> Any:
        """The sum of the entries of a vector: of its halves, again and again."""
        lanes = self.lanes
        while lanes > 1:
            nothing = ir.Constant(ir.VectorType(self.number, lanes), ir.Undefined)
            kind = ir.VectorType(_LANE, lanes // 2)
            halves = [
                self.builder.shuffle_vector(
                    vector, nothing, ir.Constant(kind, list(range(first, first + lanes // 2)))
                )
                for first in (0, lanes // 2)
            ]
            vector = self.builder.fadd(*halves, flags=_FAST)
            lanes //= 2
        return self.builder.extract_element(vector, ir.Constant(_LANE, 0))

    def loop(self, count: Any, body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Runs `body(k, totals)` for k from 0 to count - 1; the totals start at 0."""
        builder = self.builder
        before, inside = builder.block, builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        start = ir.Constant(_WORD, 0)
        builder.cbranch(builder.icmp_signed(">", count, start), inside, after)
        builder.position_at_end(inside)
        k = builder.phi(_WORD)
        k.add_incoming(start, before)
        totals = [builder.phi(self.vector) for _ in range(0, self.width, self.lanes)]
        for total in totals:
            total.add_incoming(zero, before)
        new = body(k, totals)
        following = builder.add(k, ir.Constant(_WORD, 1))
        k.add_incoming(following, inside)
        for total, value in zip(totals, new, strict=True):
            total.add_incoming(value, inside)
        builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
        builder.position_at_end(after)
        results = [builder.phi(self.vector) for _ in totals]
        for result, value in zip(results, new, strict=True):
            result.add_incoming(zero, before)
            result.add_incoming(value, inside)
        return results
