"""Exact whole-number arithmetic for counts, the same on the host and inside a compiled program.

A count is `fraction * size`, rounded half to even. A Python number is taken at its full precision
on the host, so sizes have no limit there. A traced float32 fraction is exact as well: products of
up to 63 bits are formed from 32-bit words, since density × size in float32 is wrong by one and more
from 2**24 entries on.
"""

from fractions import Fraction
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

from sparsejax.typing import Count, Number

_MILLION = 10**6
_FIXED_POINT = 2**30


def is_concrete(x: object) -> TypeGuard[float]:
    """Whether `x` is a number of the host, so that its value can be checked and used now."""
    return isinstance(x, int | float) and not isinstance(x, bool)


def check_fraction(name: str, x: object) -> None:
    """Refuses a Python number outside [0, 1]; schedules and traced values pass unseen.

    Raises:
      ValueError: if `x` is a number of the host and no fraction.
    """
    if is_concrete(x) and not 0 <= x <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {x}")
    if isinstance(x, str | bytes | bool | None):
        raise ValueError(f"{name} must be a number, an array or a schedule, got {x!r}")


def portion(size: Count, fraction: Number) -> Count:
    """Returns `fraction * size` as a whole number, rounded half to even.

    A fraction within rounding error of a whole number of millionths is read as that decimal, so
    that 0.1 and 1 - 0.9 and float32(0.1) all mean one tenth of any size. Other float32 values are
    exact down to 2**-30.

    Args:
      size: An int, or a uint32 array of any shape; on the device at most 2**31.
      fraction: Between 0 and 1; a Python number, or an array of shape () that may be traced.

    Returns:
      An int if both are Python numbers, else a uint32 array of the shape of `size`.

    Raises:
      ValueError: for a Python number outside [0, 1], or a size that the device cannot count.

    >>> portion(25, 0.1), portion(35, 1 - 0.9), portion(10**12, 0.1)
    (2, 4, 100000000000)
    >>> int(portion(200_000_001, jnp.float32(0.1)))
    20000000
    """
    check_fraction("a fraction", fraction)
    if isinstance(size, int) and is_concrete(fraction):
        millionths = round(fraction * _MILLION)
        is_decimal = abs(fraction * _MILLION - millionths) < 1e-7
        exact = Fraction(millionths, _MILLION) if is_decimal else Fraction(fraction)
        return round(size * exact)
    if isinstance(size, int) and size > 2**31:
        raise ValueError(
            f"{size} entries are more than a traced fraction can be taken of (2**31); "
            "pass the fraction as a Python number"
        )
    numerator, denominator = _ratio(jnp.asarray(fraction, jnp.float32))
    return _rounded(jnp.asarray(size, jnp.uint32), numerator, denominator)


def rescale(count: Count, units: int, size: int) -> Count:
    """Returns `count / size` of `units` as a whole number, rounded half to even.

    Args:
      count: How many of `size` entries; an int, or a uint32 array.
      units: How many units the entries make up, at most `size`.
      size: How many entries there are; on the device at most 2**31.

    Raises:
      ValueError: for a size that the device cannot count.

    >>> rescale(50, 8, 100), int(rescale(jnp.uint32(30), 8, 100))
    (4, 2)
    """
    if units == size:
        return count
    if isinstance(count, int):
        return round(Fraction(count * units, size))
    if size > 2**31:
        raise ValueError(f"{size} entries are more than the device can rescale a count of (2**31)")
    return _rounded(count, jnp.uint32(units), jnp.uint32(size))


def mul_div(a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """Returns the quotient and the rest of `a * b / c` without overflow.

    Args:
      a: Whole numbers: ints, int64 arrays of NumPy, or uint32 arrays of jax.
      b: At most `c`.
      c: From 1 to 2**31.

    >>> mul_div(2**31, 3, 4)
    (1610612736, 0)
    >>> [int(x) for x in mul_div(jnp.uint32(2**32 - 1), jnp.uint32(2**30), jnp.uint32(2**31))]
    [2147483647, 1073741824]
    """
    if not isinstance(c, jax.Array):
        return divmod(a * b, c)
    a, b, c = jnp.broadcast_arrays(a, b, c)

    # One binary digit of `a` after the other, the highest first, as in long division.
    def step(i: jax.Array, carry: Any) -> Any:
        quotient, rest = carry
        digit = (a >> (31 - i).astype(jnp.uint32)) & 1
        quotient, rest = 2 * quotient, 2 * rest
        quotient, rest = quotient + (rest >= c), jnp.where(rest >= c, rest - c, rest)
        rest = rest + digit * b
        return quotient + (rest >= c), jnp.where(rest >= c, rest - c, rest)

    zero = jnp.zeros_like(a)
    return jax.lax.fori_loop(0, 32, step, (zero, zero))


def _ratio(fraction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A fraction as numerator and denominator, both uint32."""
    x = (jnp.clip(fraction, 0, 1) * _FIXED_POINT).astype(jnp.uint32)
    # XLA computes what is cheap anew for each use, with other last bits in each, and would choose
    # the numerator of one case with the denominator of the other. What is sorted it computes once.
    x = jax.lax.sort(jnp.stack([x, x]))[0]
    # x in millionths is x * 15625 / 2**24, here by halves that fit into 32 bits.
    high, low = (x >> 15) * 15625, (x & (2**15 - 1)) * 15625
    low = low + ((high & (2**9 - 1)) << 15)
    whole, rest = (high >> 9) + (low >> 24), (low & (2**24 - 1)).astype(jnp.int32)
    # A unit in the last place of a float32 below 1 is 0.06 millionths: 1 - 0.9 may be off by one.
    is_decimal = jnp.minimum(rest, 2**24 - rest) < int(0.07 * 2**24)
    numerator = jnp.where(is_decimal, whole + (rest > 2**23), x)
    return numerator, jnp.where(is_decimal, jnp.uint32(_MILLION), jnp.uint32(_FIXED_POINT))


def _rounded(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """`a * b / c`, rounded half to even."""
    quotient, rest = mul_div(a, b, c)
    # Twice the rest may not fit into 32 bits, so it is compared with what is left over.
    above = rest > c - rest
    tied_and_odd = (rest == c - rest) & (quotient % 2 == 1)
    return quotient + (above | tied_and_odd)
