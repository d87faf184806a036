"""When the masks move, and how an amount runs over the steps."""

import functools
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

import sparsejax
from sparsejax.schedules import cubic, cyclic, every, exponential, linear, once, value_at


@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 30) | st.none())
def test_every_hits_its_grid_and_always_the_end(period, begin, length):
    end = None if length is None else begin + length
    when = every(period, begin, end)
    grid = range(begin, 60 if end is None else end, period)
    wanted = sorted({*grid} | (set() if end is None else {end}))
    assert [step for step in range(60) if when(step)] == wanted
    assert np.flatnonzero(when(jnp.arange(60))).tolist() == wanted


def test_every_takes_traced_steps_and_periods():
    hits = jax.jit(lambda period, end: every(period, 2, end)(jnp.arange(20)))(5, 15)
    assert np.flatnonzero(hits).tolist() == [2, 7, 12, 15]


@pytest.mark.parametrize("at", [0, 3])
def test_once_hits_one_step(at):
    assert np.flatnonzero(once(at)(jnp.arange(10))).tolist() == [at]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(0), "period must be at least 1 step, got 0"),
        (lambda: every(-3), "period must be at least 1 step, got -3"),
        (lambda: every(1, begin=-1), "begin must not be negative, got -1"),
        (lambda: every(1, begin=5, end=4), "end must not lie before begin = 5, got 4"),
        (lambda: once(-1), "at must not be negative, got -1"),
        (lambda: cubic(5, 5, 0.9), "end must lie after begin = 5, got 5"),
        (lambda: cubic(5, 4, 0.9), "end must lie after begin = 5, got 4"),
    ],
)
def test_impossible_steps_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


evaluate = jax.jit(
    lambda begin, end, final, initial, steps: cubic(begin, end, final, initial)(steps)
)


@given(st.integers(0, 1000), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cubic_is_the_published_curve_and_ends_exactly(begin, length, final, initial):
    end = begin + length
    final, initial = np.float32(final / 10**6), np.float32(initial / 10**6)
    steps = np.array([0, begin, begin + length // 3, begin + length // 2, end - 1, end, end + 9])
    values = np.asarray(evaluate(begin, end, final, initial, jnp.asarray(steps)))
    assert values.dtype == np.float32
    for step, value in zip(steps.tolist(), values.tolist(), strict=True):
        left = min(max(1 - Fraction(step - begin, length), 0), 1)
        wanted = (
            Fraction(float(final)) + (Fraction(float(initial)) - Fraction(float(final))) * left**3
        )
        assert value == pytest.approx(float(wanted), abs=5e-7)
    assert values[-2:].tolist() == [final, final]


@given(st.integers(1, 50), st.integers(0, 1000), st.integers(0, 1000))
def test_cubic_goes_one_way(length, final, initial):
    values = np.asarray(evaluate(7, 7 + length, final / 1000, initial / 1000, jnp.arange(60)))
    assert (np.diff(values) * np.sign(final - initial) >= -1e-7).all()


def test_cubic_is_an_optax_schedule_like_any_other():
    joined = optax.join_schedules([cubic(0, 10, 0.5), optax.constant_schedule(0.75)], [20])
    assert [float(joined(step)) for step in (0, 10, 19, 20)] == [0.0, 0.5, 0.5, 0.75]


def test_the_value_of_an_amount_at_a_step():
    assert value_at(0.25, 7) == 0.25
    assert value_at(optax.linear_schedule(0.0, 1.0, 4), 1) == 0.25


@pytest.mark.parametrize(("begin", "end", "period"), [(0, 7, 3), (2, 7, 5), (3, 4, 100), (0, 6, 3)])
def test_a_pruning_schedule_reaches_its_last_count_on_any_grid(begin, end, period):
    rule = sparsejax.gmp(0.9, begin=begin, end=end, period=period)
    params = {"w": jnp.arange(1.0, 2001.0).reshape(50, 40)}
    update, state, kept = jax.jit(rule.update), rule.init(params), []
    for _ in range(end + 3):
        _, state = update(params, state, params)
        kept.append(int(sparsejax.get_masks(state)["w"].sum()))
    assert kept[end:] == [200, 200, 200]
    assert kept[:end] == sorted(kept[:end], reverse=True)
    assert kept[:begin] == [2000] * begin
    assert all(n > 200 for n in kept[:end])


@pytest.mark.parametrize("initial", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("final", [0.5, 1.0])
@pytest.mark.parametrize("ramp", [cubic, linear, exponential, functools.partial(cyclic, cycles=3)])
def test_every_ramp_goes_from_its_first_value_to_exactly_its_last(ramp, final, initial):
    steps = jnp.arange(45)
    values = np.asarray(jax.jit(lambda f, i: ramp(7, 37, f, i)(steps))(final, initial))
    np.testing.assert_allclose(values[:8], initial, atol=1e-6)
    assert (values[37:] == np.float32(final)).all()
    assert np.isfinite(values).all()


def test_cycles_begin_anew_in_whole_steps():
    """In floats a third of 30 steps may lie before or after its step."""
    values = np.asarray(cyclic(7, 37, 0.875, cycles=3)(jnp.arange(38)))
    one = np.asarray(cubic(0, 30, 0.875)(jnp.arange(0, 30, 3)))
    np.testing.assert_array_equal(values[7:37], np.tile(one, 3))


def test_an_exponential_ramp_takes_the_same_share_every_time():
    kept = 1 - np.asarray(exponential(0, 10, 0.9, 0.1)(jnp.arange(11)), np.float64)
    np.testing.assert_allclose(kept[1:] / kept[:-1], (0.1 / 0.9) ** 0.1, rtol=1e-5)


def test_ramps_refuse_impossible_steps():
    for ramp in (linear, exponential, functools.partial(cyclic, cycles=2)):
        with pytest.raises(ValueError, match="end must lie after begin = 5, got 5"):
            ramp(5, 5, 0.9)
    with pytest.raises(ValueError, match="cycles must be at least 1, got 0"):
        cyclic(0, 5, 0.9, cycles=0)
