"""Counts against Python's own integers and fractions, at sizes that no array could have here."""

from decimal import Decimal
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from sparsejax import distributions, rounding, schedules
from sparsejax.rounding import mul_div, portion, rescale
from sparsejax.typing import Leaf

LIMIT = 2**31
SIZES = st.integers(0, LIMIT) | st.integers(2**24 - 9, 2**24 + 9) | st.integers(LIMIT - 9, LIMIT)
MILLIONTHS = st.integers(0, 10**6)

# Padded to one shape, so that each is compiled once.
on_device = jax.jit(portion)
complement_on_device = jax.jit(lambda sizes, s: portion(sizes, 1 - s))
divide_on_device = jax.jit(mul_div)
rescale_on_device = {size: jax.jit(lambda c, size=size: rescale(c, 7, size)) for size in (9, 2**31)}


def exact(size, millionths):
    return round(Fraction(size * millionths, 10**6))


@given(SIZES, MILLIONTHS)
def test_a_decimal_means_the_same_on_the_host_and_on_the_device(size, millionths):
    decimal = millionths / 10**6
    wanted = exact(size, millionths)
    assert portion(size, decimal) == wanted
    assert int(on_device(jnp.uint32(size), jnp.float32(decimal))) == wanted


@given(SIZES, MILLIONTHS)
def test_a_decimal_sparsity_means_the_same_on_the_host_and_on_the_device(size, millionths):
    sparsity = millionths / 10**6
    wanted = exact(size, 10**6 - millionths)
    assert portion(size, 1 - sparsity) == wanted
    assert int(complement_on_device(jnp.uint32(size), jnp.float32(sparsity))) == wanted


@pytest.mark.parametrize("complement", [False, True])
def test_every_decimal_of_six_digits_is_recognized(complement):
    # Of so many entries, the nearest float32 would make another count.
    millionths = np.arange(10**6 + 1)
    x = (millionths / 10**6).astype(np.float32)
    counts = jax.jit(jax.vmap(portion, (None, 0)))(jnp.uint32(LIMIT), 1 - x if complement else x)
    quotient, rest = np.divmod(millionths * LIMIT, 10**6)
    wanted = quotient + ((2 * rest > 10**6) | ((2 * rest == 10**6) & (quotient % 2 == 1)))
    np.testing.assert_array_equal(counts, wanted[::-1] if complement else wanted)


def test_a_fraction_may_be_computed_in_the_same_program():
    # XLA computes it where it is needed, each time with other last bits.
    def density(step):
        return 1 - schedules.cubic(3, 1000, 0.95)(step)

    @jax.jit
    def in_a_loop(step):
        def once(carry):
            return carry[0] & False, portion(266_200, density(step))

        return jax.lax.while_loop(lambda carry: carry[0], once, (step > 0, jnp.uint32(0)))[1]

    for step in range(3, 1000, 3):
        wanted = 266_200 * float(density(step))
        assert abs(int(in_a_loop(jnp.int32(step))) - wanted) < 1


@given(SIZES, st.integers(0, 2**30))
def test_other_fractions_on_the_device_are_exact_binary_ones(size, numerator):
    x = np.float32(numerator / 2**30)
    near_decimal = abs(float(x) * 10**6 - round(float(x) * 10**6)) < 0.08
    if not near_decimal:
        wanted = round(size * Fraction(int(float(x) * 2**30), 2**30))
        assert int(on_device(jnp.uint32(size), x)) == wanted


@given(st.integers(10**12, 10**15), st.integers(0, 2**53), MILLIONTHS)
def test_fractions_of_the_host_keep_their_full_precision_at_any_size(size, numerator, millionths):
    fraction = numerator / 2**53
    if abs(fraction * 10**6 - round(fraction * 10**6)) > 1e-6:
        assert portion(size, fraction) == round(size * Fraction(numerator, 2**53))
    assert portion(size, millionths / 10**6) == exact(size, millionths)


def test_halves_are_rounded_to_even():
    assert [portion(n, 0.5) for n in range(10)] == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]
    sizes = jnp.arange(10, dtype=jnp.uint32)
    assert portion(sizes, 0.5).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]
    assert portion(sizes, jnp.float32(0.5)).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]
    assert [rescale(n, 1, 2) for n in range(8)] == [0, 0, 1, 2, 2, 2, 3, 4]
    assert rescale(jnp.arange(8, dtype=jnp.uint32), 1, 2).tolist() == [0, 0, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize("size", [2**24 + 1, 2**25 + 3, 10**8 + 1, 2**31 - 1, 2**31])
@pytest.mark.parametrize("density", ["0.1", "0.9", "0.02", "0.999999", "0.5", "1", "0"])
def test_counts_where_float32_would_be_wrong(size, density):
    wanted = round(size * Fraction(Decimal(density)))
    assert portion(size, float(density)) == wanted
    assert int(on_device(jnp.uint32(size), jnp.float32(density))) == wanted


def test_one_minus_a_decimal_is_that_decimal():
    # 1 - 0.9 is a little below 0.1, and 35 × 0.1 is a tie.
    assert portion(35, 1 - 0.9) == portion(35, 0.1) == 4
    assert int(on_device(jnp.uint32(35), jnp.float32(1) - jnp.float32(0.9))) == 4


def test_a_type_or_a_tracer_of_another_kind_gives_the_same_count():
    for fraction in (np.float32(0.1), jnp.float32(0.1), np.float64(0.1), jnp.asarray(0.1)):
        assert int(portion(2**31 - 1, fraction)) == 214748365
    assert portion(jnp.arange(3, dtype=jnp.uint32) * 10, 0.1).dtype == jnp.uint32


@given(st.integers(0, 2**32 - 1), st.integers(1, LIMIT), st.data())
def test_long_division_equals_that_of_python(a, c, data):
    b = data.draw(st.integers(0, c))
    wanted = divmod(a * b, c)
    assert mul_div(a, b, c) == wanted
    if wanted[0] < 2**32:
        quotient, rest = divide_on_device(jnp.uint32(a), jnp.uint32(b), jnp.uint32(c))
        assert (int(quotient), int(rest)) == wanted


@given(st.data(), st.sampled_from([9, 2**31]))
def test_rescale_equals_fractions(data, size):
    count = data.draw(st.integers(0, size))
    wanted = round(Fraction(count * 7, size))
    assert rescale(count, 7, size) == wanted
    assert int(rescale_on_device[size](jnp.uint32(count))) == wanted


@given(st.integers(1, LIMIT), st.floats(0, 1, width=32))
def test_whole_rows_survive_rescaling(size, fraction):
    count = portion(size, fraction)
    assert rescale(count, size, size) == count
    assert rescale(size, 5, size) == 5
    assert rescale(0, 5, size) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 2, -1e-9, float("nan"), float("inf")])
def test_a_number_that_is_no_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        portion(10, fraction)
    with pytest.raises(ValueError, match="drop must lie between 0 and 1"):
        rounding.check_fraction("drop", fraction)


@pytest.mark.parametrize("fraction", ["0.5", True, None, b"1"])
def test_what_is_no_number_is_refused(fraction):
    with pytest.raises(ValueError, match="sparsity must be a number, an array or a schedule"):
        rounding.check_fraction("sparsity", fraction)


def test_a_traced_fraction_of_more_than_the_device_counts_is_refused():
    with pytest.raises(ValueError, match="2147483649 entries are more than a traced fraction"):
        portion(2**31 + 1, jnp.float32(0.1))


def test_rescaling_a_traced_count_of_too_large_a_size_is_refused():
    with pytest.raises(ValueError, match="2147483649 entries are more than the device"):
        rescale(jnp.uint32(1), 2, 2**31 + 1)
    assert rescale(2**31 + 1, 2, 2**31 + 1) == 2


def network(largest):
    """Layers whose sizes float32 does not hold, the largest of the given shape."""
    return [
        Leaf("stem", (7, 7, 3, 64)),
        Leaf("conv", (3, 3, 513, 515)),
        Leaf("head", (2049, 1001)),
        Leaf("embedding", largest),
    ]


def size_of(leaves):
    return sum(int(np.prod([int(n) for n in leaf.shape], dtype=object)) for leaf in leaves)


SHAPES = [(2048, 1000), (4097, 4099), (50257, 12289), (65537, 65539), (2**20, 2**21 + 1)]


@pytest.mark.parametrize("largest", SHAPES)
@pytest.mark.parametrize("density", ["0.1", "0.013", "0.5", "0.999", "0", "1"])
@pytest.mark.parametrize("share_out", [distributions.er, distributions.erk])
def test_pooled_budgets_are_met_to_the_entry_at_any_size(largest, density, share_out):
    leaves = network(largest)
    kept = share_out(leaves, float(density))
    assert sum(kept) == round(size_of(leaves) * Fraction(Decimal(density)))
    assert all(0 <= n <= size_of([leaf]) for n, leaf in zip(kept, leaves, strict=True))
    if size_of(leaves) <= LIMIT:
        assert [int(n) for n in jax.jit(share_out_of(share_out, leaves))(float(density))] == kept


def share_out_of(share_out, leaves):
    return lambda density: share_out(leaves, density)


@pytest.mark.parametrize("largest", SHAPES)
@pytest.mark.parametrize("density", ["0.1", "0.013", "0.5", "0.999", "0", "1"])
def test_each_layer_of_a_uniform_budget_is_exact_at_any_size(largest, density):
    leaves = network(largest)
    wanted = [round(size_of([leaf]) * Fraction(Decimal(density))) for leaf in leaves]
    assert distributions.uniform(leaves, float(density)) == wanted
    assert distributions.custom(leaves, 0.3, sparsities={"*": 1 - float(density)}) == wanted
    if max(size_of([leaf]) for leaf in leaves) <= LIMIT:
        traced = jax.jit(share_out_of(distributions.uniform, leaves))(float(density))
        assert [int(n) for n in traced] == wanted


@pytest.mark.parametrize("share_out", [distributions.er, distributions.erk, distributions.uniform])
def test_a_traced_budget_that_the_device_cannot_count_is_refused(share_out):
    with pytest.raises(ValueError, match="more than a traced fraction can be taken of"):
        jax.eval_shape(share_out_of(share_out, network((65537, 65539))), jnp.float32(0.1))
