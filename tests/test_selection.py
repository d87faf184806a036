"""The selection against a slow oracle: a stable sort by value, NaN last, then by index."""

import functools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from sparsejax import selection
from sparsejax.selection import count, pooled_counts, sort_keys, top_k_mask

FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]
INTEGERS = [np.int32, np.uint32, np.int8, np.uint8, np.int16, np.uint16, np.bool_]
# Rows of up to 16 entries along one axis are ranked by comparing pairs, others by bisection.
LAYOUTS = [
    ((7,), None),
    ((16,), None),
    ((17,), None),
    ((97,), None),
    ((1,), None),
    ((), None),
    ((5, 8), (1,)),
    ((4, 6), (0,)),
    ((5, 1), (1,)),
    ((23, 3), (0,)),
    ((6, 9), None),
    ((3, 20, 2), (1,)),
    ((4, 3, 6), (0, 2)),
    ((4, 3, 6), (-1, -3)),
    ((2, 3, 4, 5), (0, 1, 2)),
    ((3, 1, 4, 1), (0, 2)),
]


@functools.partial(jax.jit, static_argnames="axes")
def marked(scores, k, axes=None, first=None):
    return top_k_mask(scores, k, axes=axes, first=first)


def order(values, first):
    """The indices of a row from the first to be kept to the last."""
    with np.errstate(invalid="ignore"):  # for a NaN of 16 bits
        exact = values.astype(np.float64)
    return np.lexsort((-np.where(np.isnan(exact), 0, exact), np.isnan(exact), ~first))


def oracle(scores, k, axes, first):
    axes = range(scores.ndim) if axes is None else sorted(a % scores.ndim for a in axes)
    others = [a for a in range(scores.ndim) if a not in axes]
    there = [*others, *axes]
    rows = np.transpose(scores, there)
    length = math.prod(scores.shape[a] for a in axes)
    asked = np.broadcast_to(k, [1 if a in axes else n for a, n in enumerate(scores.shape)])
    asked = np.transpose(asked, there).reshape(-1)
    flags = np.transpose(first, there).reshape(-1, length)
    chosen = np.zeros((len(asked), length), bool)
    for i, row in enumerate(rows.reshape(-1, length)):
        chosen[i, order(row, flags[i])[: asked[i]]] = True
    return np.transpose(chosen.reshape(rows.shape), np.argsort(there))


def palette(dtype):
    """Values at the edges of a type, few enough for ties."""
    if dtype == np.bool_:
        return np.array([False, True])
    if np.issubdtype(dtype, np.integer):
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        # The three largest integers of 32 bits tie, so only one of them is here.
        return np.array([least, least + 1, 0, 1, 2, 100, most], dtype)
    info = ml_dtypes.finfo(dtype)
    tiny = float(info.smallest_subnormal)
    edges = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, tiny, -tiny, 2 * tiny, 1.0, -1.0, 0.5]
    return np.array([*edges, float(info.max), float(info.min), 1 + float(info.eps)]).astype(dtype)


@st.composite
def arrays(draw, shape, dtype):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype == np.float32 and draw(st.booleans()):
        return rng.normal(size=shape).astype(dtype)
    values = palette(dtype)
    some = rng.permutation(values)[: draw(st.integers(1, len(values)))]
    return rng.choice(some, size=shape).astype(dtype)


@st.composite
def cases(draw, layouts, dtypes):
    """Scores, how many to keep (of all rows or of each) and the axes."""
    shape, axes = draw(st.sampled_from(layouts))
    scores = draw(arrays(shape, draw(st.sampled_from(dtypes))))
    ranked = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
    length = math.prod(shape[a] for a in ranked)
    k = draw(st.sampled_from([0, 1, length, length + 3]) | st.integers(0, length))
    per_row = [1 if a in ranked else n for a, n in enumerate(shape)]
    if draw(st.booleans()):
        k = np.random.default_rng(k).integers(0, length + 2, per_row)
    # One shape of k for all examples of a layout: one compilation.
    return scores, np.broadcast_to(np.asarray(k, np.uint32), per_row), axes


def check(scores, k, axes, first):
    asked = None if first is None else jnp.asarray(first)
    mask = np.asarray(marked(jnp.asarray(scores), jnp.asarray(k), axes, asked))
    assert mask.dtype == bool
    wanted = oracle(scores, k, axes, np.zeros(scores.shape, bool) if first is None else first)
    np.testing.assert_array_equal(mask, wanted)


@given(cases(LAYOUTS, [np.float32]))
def test_marks_the_largest_in_every_layout(case):
    check(*case, None)


@given(cases([((97,), None), ((5, 8), (1,)), ((4, 3, 6), (0, 2))], FLOATS + INTEGERS))
def test_marks_the_largest_of_every_type(case):
    check(*case, None)


@given(cases([LAYOUTS[i] for i in (1, 3, 6, 9, 12)], [np.float32, np.uint32]), st.data())
def test_entries_that_come_first_rank_before_all_others(case, data):
    scores, k, axes = case
    share = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    first = np.random.default_rng(1).random(scores.shape) < share
    check(scores, k, axes, first)


@given(arrays((6, 40), np.float32), arrays((6, 9), np.float32), st.integers(0, 42))
def test_vmap_equals_single_calls(long, short, k):
    for rows, f in (long, VMAPPED_LONG), (short, VMAPPED_SHORT):
        asked = np.array([0, 1, k, k // 2, 40, 41], np.int32)
        mask = f(jnp.asarray(rows), jnp.asarray(asked))
        wanted = oracle(rows, asked[:, None], (1,), np.zeros(rows.shape, bool))
        np.testing.assert_array_equal(np.asarray(mask), wanted)


VMAPPED_LONG = jax.jit(jax.vmap(top_k_mask))
VMAPPED_SHORT = jax.jit(jax.vmap(top_k_mask))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
@pytest.mark.parametrize("axes", [None, (-1,)])
def test_empty_arrays_have_empty_masks(shape, axes):
    mask = top_k_mask(jnp.zeros(shape), 2, axes=axes, first=jnp.zeros(shape, bool))
    assert mask.shape == shape
    assert mask.dtype == bool


@pytest.mark.parametrize("k", [0, 1, 29, 30, 31, 2**31, 2**40])
def test_k_may_be_a_python_number_of_any_size(k):
    scores = jnp.arange(30.0)
    assert top_k_mask(scores, k).tolist() == [i >= 30 - k for i in range(30)]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int16, jnp.int32, jnp.uint32])
def test_k_may_be_of_a_type_too_narrow_for_the_length_of_a_row(dtype):
    k = jnp.array([[0], [3], [120]], dtype)
    assert top_k_mask(jnp.ones((3, 300)), k, axes=(1,)).sum(1).tolist() == [0, 3, 120]


def test_a_traced_k_below_zero_marks_nothing_and_a_huge_one_everything():
    assert not top_k_mask(jnp.arange(30.0), jnp.int32(-4)).any()
    assert top_k_mask(jnp.arange(30.0), jnp.uint32(2**32 - 1)).all()


def test_a_negative_k_is_refused():
    with pytest.raises(ValueError, match="k must not be negative, got -1"):
        top_k_mask(jnp.arange(3.0), -1)


def test_wide_types():
    with jax.enable_x64(True):
        scores = np.array([1.0, 1.0 + 2**-50, np.nan, -np.inf, 5e-324, -0.0, 0.0, 1.0] * 3)
        for k in 0, 1, 5, 17, 24:
            mask = np.asarray(top_k_mask(jnp.asarray(scores), k))
            wanted = oracle(scores, k, None, np.zeros(scores.shape, bool))
            np.testing.assert_array_equal(mask, wanted)
        with pytest.raises(ValueError, match="integers of up to 32 bits, got int64"):
            top_k_mask(jnp.arange(3, dtype=jnp.int64), 1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_keys_sort_all_16_bit_floats(dtype):
    scores = np.random.default_rng(0).permutation(np.arange(2**16, dtype=np.uint16)).view(dtype)
    keys = np.asarray(sort_keys(jnp.asarray(scores))).astype(np.int64)
    assert keys.dtype.kind == "i"
    assert keys.min() == 1
    best_first = np.argsort(-keys, kind="stable")
    np.testing.assert_array_equal(best_first, order(scores, np.zeros(len(scores), bool)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_keys_sort_integers_but_for_the_three_largest(dtype):
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    scores = np.array([least, least + 1, 7, 8, most - 3, most - 2, most - 1, most], dtype)
    keys = np.asarray(sort_keys(jnp.asarray(scores))).astype(np.int64)
    assert keys[0] == 1
    assert keys[-1] == 2**32 - 2
    assert (np.diff(keys) > 0).tolist() == [True] * 5 + [False] * 2


POOLED = jax.jit(pooled_counts)


@given(st.data(), st.integers(0, 45), st.booleans(), st.sampled_from([np.float32, np.float16]))
def test_pooled_counts_are_those_of_one_selection(data, k, prefers, dtype):
    shapes = [(3, 4), (1,), (0, 2), (25,)]
    scores = [data.draw(arrays(shape, dtype)) for shape in shapes]
    rng = np.random.default_rng(k)
    first = [rng.random(s.shape) < 0.3 for s in scores] if prefers else None
    flat = np.concatenate([s.ravel() for s in scores])
    flags = np.zeros(flat.shape, bool)
    if prefers:
        first[1] = np.ones(scores[1].shape, bool)
        flags = np.concatenate([f.ravel() for f in first])
    mask = oracle(flat, k, None, flags)
    ends = np.cumsum([s.size for s in scores])
    wanted = [int(part.sum()) for part in np.split(mask, ends[:-1])]
    assert [int(n) for n in POOLED(scores, jnp.uint32(k), first)] == wanted


def test_pooled_scores_of_several_types_are_compared_as_numbers():
    scores = [jnp.array([1.5, 3.0], jnp.bfloat16), jnp.array([2.0, 1.0], jnp.float32)]
    assert [int(n) for n in pooled_counts(scores, 2)] == [1, 1]


def test_pooled_counts_reach_past_two_to_the_31():
    leaf = jax.ShapeDtypeStruct((2**10, 2**20), jnp.float32)
    counts = jax.eval_shape(lambda a, b, c: pooled_counts([a, b, c], 3 * 10**9), leaf, leaf, leaf)
    assert [(c.shape, c.dtype) for c in counts] == [((), jnp.uint32)] * 3


COUNTED = [(1,), (16,), (17,), (97,), (1009,), (4096,), (300, 100), (784, 30), (3, 3, 16, 32)]
COUNTED += [(31, 37), (2, 3, 5, 7), (16, 16, 16), (32, 2), (2, 32), (13, 128), (1, 48, 1)]


@pytest.mark.parametrize("shape", COUNTED)
def test_count_equals_numpy_along_all_axes_and_any(shape):
    rng = np.random.default_rng(0)
    subsets = [tuple(range(len(shape)))] + [(a,) for a in range(len(shape)) if len(shape) > 1]
    for share, axes in [(1.0, subsets[0])] + [(0.5, axes) for axes in subsets]:
        hits = rng.random(shape) < share
        counted = count(jnp.asarray(hits), axes)
        assert counted.dtype == jnp.uint32
        np.testing.assert_array_equal(counted, hits.sum(axes, keepdims=True))


@given(st.lists(st.integers(1, 600), min_size=1, max_size=4), st.data())
def test_the_first_stage_of_a_count_fits_into_a_byte_and_keeps_the_shards(shape, data):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    axis, width = selection._first_stage(shape, sorted(axes))
    assert 1 <= width <= 16
    assert width == 1 or (axis in axes and shape[axis] % width == 0)
    left = shape[axis] // width
    for devices in 2, 4, 8:
        if shape[axis] > 16 and shape[axis] % devices == 0:
            assert left % devices == 0
