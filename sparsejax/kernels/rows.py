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
WIDTHS = (32, 16, 8, 4, 1)
"""How many examples a row of a tile may have."""

_REGISTER = 32  # bytes of a vector; where registers have another size, LLVM splits or joins them
_GROUP = 8  # entries, of which the loops take so many at once
_CHAINS = 4  # sums that grow side by side: each has to wait for its last addition
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


@functools.cache
def square(dtype: str) -> Any:
    """Makes the transposition of a square of `lanes(dtype)` × `lanes(dtype)` numbers.

    Returns:
      In machine code `(source, source_step, target, target_step)`, two addresses, and the bytes
      from each row to the next.
    """

    @intrinsic
    def turn(context, source, source_step, target, target_step):  # type: ignore[no-untyped-def]
        del context, source, source_step, target, target_step

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del signature
            make = _Maker(builder, lanes(dtype), dtype, "int32")
            source, source_step, target, target_step = arguments

            def row(address: Any, step: Any, number: int) -> Any:
                return make.row(builder.add(address, make.times(step, number)))[0]

            vectors = [make.load(row(source, source_step, i)) for i in range(make.lanes)]
            for vector, i in zip(make.transposed(vectors), range(make.lanes), strict=True):
                make.store([vector], [row(target, target_step, i)])
            return context.get_dummy_value()

        return types.none(*[types.int64] * 4), generate

    return turn


@functools.cache
def copy(dtype: str) -> Any:
    """Makes `(source, target)`, which copies one number from an address to another."""

    @intrinsic
    def number(context, source, target):  # type: ignore[no-untyped-def]
        del context, source, target

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del signature
            place = _NUMBERS[dtype].as_pointer()
            source, target = (builder.inttoptr(address, place) for address in arguments)
            builder.store(builder.load(source), target)
            return context.get_dummy_value()

        return types.none(types.int64, types.int64), generate

    return number


def lanes(dtype: str) -> int:
    """How many numbers of a type a register holds."""
    return _REGISTER // BYTES[dtype]


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
    # Of short rows several sums at once, so that one need not wait for the other.
    sums = max(_CHAINS // make.vectors, 1)

    def body(k: Any, entries: int, totals: list[Any]) -> list[Any]:
        totals = list(totals)
        for entry in range(entries):
            weight, neighbour = make.entry(tile, indices, values, make.plus(k, entry))
            for v, vector in enumerate(neighbour):
                total = entry % sums * make.vectors + v
                totals[total] = make.add_product(totals[total], weight, vector)
        return totals

    totals = make.in_groups(count, _GROUP, sums * make.vectors, body)
    for v in range(make.vectors, len(totals)):
        totals[v % make.vectors] = make.add(totals[v % make.vectors], totals[v])
    make.store(totals[: make.vectors], make.row(out))


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

    def body(k: Any, entries: int, totals: list[Any]) -> list[Any]:
        totals, products = list(totals), []
        for entry in range(entries):
            weight, neighbour = make.entry(tile, indices, values, make.plus(k, entry))
            product = None
            for v, vector in enumerate(neighbour):
                totals[v] = make.add_product(totals[v], weight, vector)
                product = make.add_product(product, make.load(inputs[v]), vector)
            products.append(product)
        there = make.at(gradient, k)
        if entries == 1:
            make.increase(there, make.total(products[0]), adds)
        else:  # as many as a vector has lanes: their sums are taken side by side
            there = builder.bitcast(there, make.vector.as_pointer())
            make.increase(there, make.totals(products), adds)
        return totals

    make.store(make.in_groups(count, make.lanes, make.vectors, body), make.row(out))


class _Maker:
    """Writes the few kinds of instructions that the loops are made of."""

    def __init__(self, builder: Any, width: int, dtype: str, index: str):
        self.builder = builder
        self.place = _INDICES[index]
        self.signed = index == "int32"
        self.width = width
        self.number = _NUMBERS[dtype]
        self.bytes = BYTES[dtype]
        self.lanes = min(width, lanes(dtype))
        self.vectors = width // self.lanes
        self.vector = ir.VectorType(self.number, self.lanes)

    def plus(self, k: Any, number: int) -> Any:
        return self.builder.add(k, ir.Constant(_WORD, number))

    def times(self, k: Any, number: int) -> Any:
        return self.builder.mul(k, ir.Constant(_WORD, number))

    def at(self, address: Any, index: Any) -> Any:
        """The place of a number in an array of them."""
        array = self.builder.inttoptr(address, self.number.as_pointer())
        return self.builder.gep(array, [index])

    def index(self, address: Any, k: Any) -> Any:
        """The k-th entry of an array of indices."""
        array = self.builder.inttoptr(address, self.place.as_pointer())
        widen = self.builder.sext if self.signed else self.builder.zext
        return widen(self.builder.load(self.builder.gep(array, [k])), _WORD)

    def entry(self, tile: Any, indices: Any, values: Any, k: Any) -> tuple[Any, list[Any]]:
        """The k-th weight in all lanes, and the row of the tile that it is for."""
        weight = self.spread(self.builder.load(self.at(values, k)))
        return weight, [self.load(vector) for vector in self.row(tile, self.index(indices, k))]

    def row(self, address: Any, index: Any = None) -> list[Any]:
        """The places of the vectors of a row of a tile."""
        index = ir.Constant(_WORD, 0) if index is None else index
        start = self.at(address, self.times(index, self.width))
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

    def increase(self, place: Any, number: Any, adds: Any) -> None:
        """Stores a number or a vector, on top of what was there if `adds`."""
        before = self.builder.select(adds, self.load(place), ir.Constant(number.type, None))
        self.store([self.add(before, number)], [place])

    def spread(self, number: Any) -> Any:
        """A vector of one number, again and again."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, number, ir.Constant(_LANE, 0))
        return self.shuffle(one, nothing, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(_LANE, len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FAST)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        product = self.builder.fmul(a, b, flags=_FAST)
        return product if total is None else self.add(total, product)

    def crossed(self, a: Any, b: Any, size: int) -> tuple[Any, Any]:
        """Two vectors after their pieces of `size` numbers went crosswise.

        Of a = a0 a1 a2 a3 and b = b0 b1 b2 b3 these are a0 b0 a2 b2 and a1 b1 a3 b3.
        """
        n = self.lanes
        even = [p if p // size % 2 == 0 else n + p - size for p in range(n)]
        odd = [p + size if p // size % 2 == 0 else n + p for p in range(n)]
        return self.shuffle(a, b, even), self.shuffle(a, b, odd)

    def transposed(self, vectors: list[Any]) -> list[Any]:
        """The columns of a square of numbers whose rows are these."""
        vectors, size = list(vectors), 1
        while size < self.lanes:
            for i in range(self.lanes):
                if i // size % 2 == 0:
                    pair = self.crossed(vectors[i], vectors[i + size], size)
                    vectors[i], vectors[i + size] = pair
            size *= 2
        return vectors

    def totals(self, vectors: list[Any]) -> Any:
        """A vector of the sums of the entries of as many vectors as it has lanes."""
        size = 1
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.add(*self.crossed(a, b, size)) for a, b in pairs]
            size *= 2
        return vectors[0]

    def total(self, vector: Any) -> Any:
        """The sum of the entries of a vector: of its halves, again and again."""
        lanes = self.lanes
        while lanes > 1:
            nothing = ir.Constant(ir.VectorType(self.number, lanes), ir.Undefined)
            half = lanes // 2
            halves = [self.shuffle(vector, nothing, list(range(i, i + half))) for i in (0, half)]
            vector, lanes = self.add(*halves), half
        return self.builder.extract_element(vector, ir.Constant(_LANE, 0))

    def in_groups(
        self,
        count: Any,
        size: int,
        totals: int,
        body: Callable[[Any, int, list[Any]], list[Any]],
    ) -> list[Any]:
        """Runs `body(k, entries, totals)` for groups of `size` entries, and those left one by one.

        The totals, so many vectors, start at 0.
        """
        zeros = [ir.Constant(self.vector, None)] * totals
        whole = self.builder.and_(count, ir.Constant(_WORD, -size))
        sums = self._loop(ir.Constant(_WORD, 0), whole, size, zeros, body)
        return self._loop(whole, count, 1, sums, body) if size > 1 else sums

    def _loop(
        self,
        first: Any,
        last: Any,
        step: int,
        totals: list[Any],
        body: Callable[[Any, int, list[Any]], list[Any]],
    ) -> list[Any]:
        builder = self.builder
        before, inside = builder.block, builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", first, last), inside, after)
        builder.position_at_end(inside)
        k = builder.phi(_WORD)
        k.add_incoming(first, before)
        sums = [builder.phi(self.vector) for _ in totals]
        for one, start in zip(sums, totals, strict=True):
            one.add_incoming(start, before)
        new = body(k, step, sums)
        following = self.plus(k, step)
        k.add_incoming(following, inside)
        for one, value in zip(sums, new, strict=True):
            one.add_incoming(value, inside)
        builder.cbranch(builder.icmp_signed("<", following, last), inside, after)
        builder.position_at_end(after)
        results = [builder.phi(self.vector) for _ in totals]
        for result, start, value in zip(results, totals, new, strict=True):
            result.add_incoming(start, before)
            result.add_incoming(value, inside)
        return results
