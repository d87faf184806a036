"""When the masks move, and how an amount runs over the steps.

A `When` maps the step, counted from 0, to whether the masks move at that step. An amount is a
number or any optax schedule; `cubic` and its like, the ramps, take a sparsity from its first to its
last value.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sparsejax.rounding import is_concrete
from sparsejax.typing import Amount, Number, When


def every(period: int, begin: int = 0, end: int | None = None) -> When:
    """Moves the masks every `period` steps from `begin` to `end`, both included.

    The last update falls on `end` even where the grid of periods misses it, so that a schedule that
    ends there reaches its last value.

    Args:
      period: Steps between two updates, at least 1.
      begin: The step of the first update.
      end: The step of the last update; None for no end.

    Raises:
      ValueError: if the period is below 1, `begin` is negative, or `end` lies before `begin`.

    >>> [step for step in range(12) if every(3, begin=2, end=10)(step)]
    [2, 5, 8, 10]
    """
    if is_concrete(period) and period < 1:
        raise ValueError(f"period must be at least 1 step, got {period}")
    if is_concrete(begin) and begin < 0:
        raise ValueError(f"begin must not be negative, got {begin}")
    if is_concrete(begin) and is_concrete(end) and end < begin:
        raise ValueError(f"end must not lie before begin = {begin}, got {end}")

    def when(step: jax.Array) -> jax.Array:
        hit = (step >= begin) & ((step - begin) % period == 0)
        return hit if end is None else (hit & (step < end)) | (step == end)

    return when


def once(at: int = 0) -> When:
    """Moves the masks at one step.

    Args:
      at: The step, counted from 0.

    Raises:
      ValueError: if the step is negative.

    >>> [step for step in range(5) if once(3)(step)]
    [3]
    """
    if is_concrete(at) and at < 0:
        raise ValueError(f"at must not be negative, got {at}")
    return lambda step: step == at


def cubic(begin: int, end: int, final: Number, initial: Number = 0.0) -> optax.Schedule:
    """Returns the sparsity of gradual magnitude pruning, fast at first and slow at the end.

    s(t) = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))³ between `begin` and `end`, constant
    outside. Zhu & Gupta 2017, arXiv 1710.01878.

    Args:
      begin: The step up to which the value is `initial`.
      end: The step from which on it is `final`, exactly.
      final: The last value.
      initial: The first value.

    Raises:
      ValueError: if `end` does not lie after `begin`.

    >>> schedule = cubic(begin=0, end=100, final=0.9)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 200)]
    [0.0, 0.7875, 0.9, 0.9]
    """
    return _ramp(begin, end, final, lambda left, last: last + (initial - last) * left**3)


def linear(begin: int, end: int, final: Number, initial: Number = 0.0) -> optax.Schedule:
    """Returns a sparsity that rises evenly, so that the same number of weights goes every time.

    s(t) = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin)) between `begin` and `end`, constant
    outside.

    Args:
      begin: The step up to which the value is `initial`.
      end: The step from which on it is `final`, exactly.
      final: The last value.
      initial: The first value.

    Raises:
      ValueError: if `end` does not lie after `begin`.

    >>> schedule = linear(begin=0, end=100, final=0.9)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 200)]
    [0.0, 0.45, 0.9, 0.9]
    """
    return _ramp(begin, end, final, lambda left, last: last + (initial - last) * left)


def exponential(begin: int, end: int, final: Number, initial: Number = 0.0) -> optax.Schedule:
    """Returns a sparsity under which the same share of the kept weights goes every time.

    1 - s(t) = (1 - s_i)^(1-τ) (1 - s_f)^τ with τ = (t - begin) / (end - begin) between `begin` and
    `end`, constant outside: the geometric course of iterative pruning, Han et al. 2015,
    arXiv 1506.02626, and Frankle & Carbin 2019, arXiv 1803.03635.

    Args:
      begin: The step up to which the value is `initial`.
      end: The step from which on it is `final`, exactly.
      final: The last value.
      initial: The first value.

    Raises:
      ValueError: if `end` does not lie after `begin`.

    >>> schedule = exponential(begin=0, end=100, final=0.99)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 200)]
    [0.0, 0.9, 0.99, 0.99]
    """

    def value(left: jax.Array, last: jax.Array) -> jax.Array:
        return 1 - (1 - jnp.asarray(initial, jnp.float32)) ** left * (1 - last) ** (1 - left)

    return _ramp(begin, end, final, value)


def cyclic(
    begin: int, end: int, final: Number, initial: Number = 0.0, *, cycles: int
) -> optax.Schedule:
    """Returns a sparsity that rises again and again, so that pruned weights get another chance.

    Between `begin` and `end` lie `cycles` equal cycles, and in each s(t) = s_f + (s_i - s_f)
    (1 - τ)³ with τ from 0 to 1 the place in the cycle. Srinivas et al. 2022, arXiv 2202.01290.

    Args:
      begin: The step up to which the value is `initial`.
      end: The step from which on it is `final`, exactly.
      final: The last value of every cycle.
      initial: The first one.
      cycles: How many cycles there are, at least 1.

    Raises:
      ValueError: if `end` does not lie after `begin`, or there is no cycle.

    >>> schedule = cyclic(begin=0, end=100, final=0.8, cycles=2)
    >>> [round(float(schedule(step)), 4) for step in (0, 25, 49, 50, 75, 100)]
    [0.0, 0.7, 0.8, 0.0, 0.7, 0.8]
    """
    if is_concrete(cycles) and cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}")

    rising = cubic(begin, end, final, initial)

    def schedule(step: jax.Array) -> jax.Array:
        # The place in one cycle that lasts all the steps, in whole numbers.
        place = begin + (step - begin) * cycles % (end - begin)
        return rising(jnp.where((step > begin) & (step < end), place, step))

    return schedule


def _ramp(
    begin: int, end: int, final: Number, value: Callable[[jax.Array, jax.Array], jax.Array]
) -> optax.Schedule:
    """A schedule from which part of the steps is left, 1 at `begin` and 0 at `end`, and `final`."""
    if is_concrete(begin) and is_concrete(end) and end <= begin:
        raise ValueError(f"end must lie after begin = {begin}, got {end}")

    def schedule(step: jax.Array) -> jax.Array:
        left = jnp.clip(1 - (step - begin) / (end - begin), 0, 1)
        last = jnp.asarray(final, jnp.float32)
        return jnp.where(left > 0, value(left, last), last)

    return schedule


def annealed(amount: Amount, end: int | None) -> Amount:
    """Returns an amount that falls to 0 along half a cosine: a(t) = a/2 (1 + cos(π t / end)).

    Loshchilov & Hutter 2017, arXiv 1608.03983; for drop fractions, Dettmers & Zettlemoyer 2019,
    arXiv 1907.04840.

    Args:
      amount: The value at step 0; a schedule is returned as it is.
      end: The step at which 0 is reached; None for an amount that stays.

    >>> [round(float(annealed(0.5, 100)(step)), 4) for step in (0, 50, 100)]
    [0.5, 0.25, 0.0]
    """
    if callable(amount) or end is None:
        return amount
    return lambda step: amount / 2 * (1 + jnp.cos(jnp.pi * step / end))


def value_at(amount: Amount, step: jax.Array) -> Number:
    """Returns the value of a number or a schedule at a step.

    >>> value_at(0.5, 3), value_at(lambda step: 2 * step, 3)
    (0.5, 6)
    """
    return amount(step) if callable(amount) else amount
