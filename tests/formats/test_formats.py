"""Every format against the dense array: exact there and back, small, and understood by others."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import sparse

import sparsejax
from sparsejax import formats
from sparsejax.formats import BSR, COO, CSC, CSR, NM, Bitmask, Dense, FanIn
from sparsejax.metrics import nbytes

SHAPES = [(), (7,), (5, 3), (1, 9), (9, 1), (0, 4), (4, 0), (2, 3, 5, 3), (13, 17)]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8, jnp.bool_, jnp.uint32]
ANY_MASK = {
    "dense": Dense.from_dense,
    "bitmask": Bitmask.from_dense,
    "coo": COO.from_dense,
    "csr": CSR.from_dense,
    "csc": CSC.from_dense,
    "bsr": functools.partial(BSR.from_dense, block=(2, 4)),
    "3:3": functools.partial(NM.from_dense, n=3, m=3),
}


def array_of(shape, dtype, seed=0):
    """Numbers of any kind; floating ones with a NaN, an infinity and a -0 among them."""
    rng = np.random.default_rng(seed)
    array = np.asarray(rng.normal(size=shape) * 50).astype(dtype)
    if jnp.issubdtype(dtype, jnp.floating) and array.size > 3:
        array.flat[:3] = [np.nan, -np.inf, -0.0]
    return array


def same_bits(a, b):
    """Equal with the signs of zeros and the bits of NaNs."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


def on_mask(array, mask):
    """The array with positive zeros off the mask, entry by entry."""
    flat = [x if m else array.dtype.type(0) for x, m in zip(array.flat, mask.flat, strict=True)]
    return np.array(flat, array.dtype).reshape(array.shape)


@pytest.mark.parametrize("name", ANY_MASK)
@settings(max_examples=6)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_dense_and_back_is_exact(name, shape, dtype, density):
    array = array_of(shape, dtype)
    mask = np.asarray(np.random.default_rng(1).random(shape) < density)
    stored = ANY_MASK[name](array, mask)
    same_bits(stored.todense(), on_mask(array, mask))
    assert stored.nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(stored))


@settings(max_examples=6)
@given(
    shape=st.sampled_from([(8, 3), (7, 5), (3, 3, 4, 2), (0, 2), (5,)]),
    n_m=st.sampled_from([(2, 4), (1, 4), (1, 2), (2, 3), (1, 1)]),
    dtype=st.sampled_from(DTYPES),
)
def test_nm_and_back_is_exact(shape, n_m, dtype):
    n, m = n_m
    array = array_of(shape, dtype)
    rows, columns = formats.view(shape)
    mask = np.zeros((rows, columns), bool)
    rng = np.random.default_rng(2)
    for column, start in itertools.product(range(columns), range(0, rows, m)):
        neighbours = np.arange(start, min(start + m, rows))
        kept = rng.permutation(neighbours)[: rng.integers(n + 1)]  # n of them, or fewer
        mask[kept, column] = True
    mask = mask.reshape(shape)
    stored = NM.from_dense(array, mask, n, m)
    same_bits(stored.todense(), on_mask(array, mask))
    assert stored.indices.nbytes == -(-stored.values.size // 4)


@settings(max_examples=6)
@given(
    shape=st.sampled_from([(8, 3), (7, 5), (3, 3, 4, 2), (4, 1)]),
    fan_in=st.sampled_from([0, 1, 4]),
    ablated=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_constant_fan_in_and_back_is_exact(shape, fan_in, ablated, dtype):
    array = array_of(shape, dtype)
    rows, columns = formats.view(shape)
    mask = np.zeros((rows, columns), bool)
    for column in range(int(ablated), columns):
        mask[np.random.default_rng(column).permutation(rows)[:fan_in], column] = True
    mask = mask.reshape(shape)
    stored = FanIn.from_dense(array, mask)
    same_bits(stored.todense(), on_mask(array, mask))
    assert len(stored.neurons) == (columns - int(ablated) if fan_in else 0)


def test_masks_that_a_format_cannot_hold_are_refused():
    ones = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="stores 1 of 4 neighbours, but the mask keeps 2"):
        NM.from_dense(ones, np.array([[1, 1], [1, 0], [0, 0], [0, 0]], bool), 1, 4)
    with pytest.raises(ValueError, match="runs from 1 to 2"):
        FanIn.from_dense(ones, np.array([[1, 1], [1, 0], [0, 0], [0, 0]], bool))
    with pytest.raises(ValueError, match="n <= m <= 4"):
        NM.from_dense(ones, True, 2, 8)
    with pytest.raises(ValueError, match="two sizes of at least 1"):
        BSR.from_dense(ones, True, (0, 1))
    for make in ANY_MASK.values():
        with pytest.raises(ValueError, match="does not fit an array of shape"):
            make(ones, np.ones((3, 2), bool))
        with pytest.raises(ValueError, match="array of booleans"):
            make(ones, np.ones((4, 2)))
        with pytest.raises(ValueError, match="outside of jit"):
            jax.eval_shape(lambda x, make=make: make(x, True).todense(), ones)


@pytest.mark.parametrize("name", ANY_MASK)
def test_formats_are_pytrees_that_go_through_transformations(name):
    array = array_of((6, 5), np.float32)[None] + np.arange(2, dtype=np.float32)[:, None, None]
    mask = np.random.default_rng(3).random((6, 5)) < 0.5
    stored = [ANY_MASK[name](a, mask) for a in array]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stored)
    dense = jax.jit(jax.vmap(lambda s: s.todense()))(batch)
    for a, d in zip(array, dense, strict=True):
        same_bits(d, on_mask(a, mask))
    with pytest.raises(AttributeError):
        stored[0].values = None


def test_bsr_holds_whole_blocks_of_a_block_mask_and_nothing_else():
    kept = jnp.array([[0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    mask = np.asarray(sparsejax.block((4, 4)).expand(kept, (10, 12)))
    array = array_of((10, 12), np.float32)
    stored = BSR.from_dense(array, mask, (4, 4))
    assert stored.values.shape == (3, 4, 4) and stored.indices.tolist() == [1, 0, 2]
    same_bits(stored.todense(), on_mask(array, mask))


def test_a_mask_of_channels_takes_one_bit_for_each_channel():
    mask = np.arange(20) % 2 == 0
    stored = Bitmask.from_dense(jnp.ones((3, 3, 4, 20)), mask.reshape(1, 1, 1, 20))
    assert stored.nbytes == 3 + 4 * 3 * 3 * 4 * 10
    params = {"w": jnp.ones((3, 3, 4, 20))}
    assert nbytes(params, {"w": jnp.asarray(mask)}).sparse == stored.nbytes


@pytest.mark.parametrize("name", ["bsr", "coo", "csr", "csc"])
def test_sparse_matrices_of_jax_and_scipy(name):
    array = np.random.default_rng(5).normal(size=(3, 2, 7)).astype(np.float32)
    mask = np.random.default_rng(6).random(array.shape) < 0.4
    expected = on_mask(array, mask).reshape(6, 7)
    stored = ANY_MASK[name](array, mask)
    bcoo, bcsr = jax.jit(lambda s: (formats.to_bcoo(s), formats.to_bcsr(s)))(stored)
    for converted in bcoo, bcsr:
        np.testing.assert_array_equal(jax.jit(lambda m: m @ jnp.eye(7))(converted), expected)
        np.testing.assert_array_equal(formats.from_jax(converted).todense(), expected)
    transposed = jax.jit(lambda s: formats.to_bcsr(s, transpose=True) @ jnp.eye(6))(stored)
    np.testing.assert_array_equal(transposed, expected.T)
    matrix = formats.to_scipy(stored)
    np.testing.assert_array_equal(matrix.toarray(), expected)
    np.testing.assert_array_equal(formats.from_scipy(matrix.tocsc()).todense(), expected)


def test_duplicates_are_summed_and_stored_zeros_kept():
    matrix = scipy.sparse.coo_array(
        (np.float32([1, 2, 0, 4]), ([2, 2, 0, 1], [1, 1, 3, 0])), shape=(3, 4)
    )
    stored = formats.from_scipy(matrix)
    np.testing.assert_array_equal(stored.todense(), matrix.toarray())
    assert stored.values.tolist() == [0, 4, 3]
    with pytest.raises(ValueError, match=r"scipy\.sparse has no bfloat16"):
        formats.to_scipy(COO.from_dense(jnp.ones((2, 2), jnp.bfloat16), True))
    with pytest.raises(ValueError, match="without batch and dense dimensions"):
        formats.from_jax(sparse.BCOO.fromdense(jnp.ones((2, 3, 4)), n_batch=1))
    with pytest.raises(ValueError, match="sparse matrix of scipy"):
        formats.from_scipy(np.eye(3))


def test_the_choice_is_the_smallest_and_says_its_size():
    rng = np.random.default_rng(7)
    blocks = np.kron(rng.random((8, 8)) < 0.1, np.ones((16, 16))).astype(bool)
    masks = {
        "dense": np.ones((128, 128), bool),
        "bitmask": rng.random((128, 128)) < 0.3,
        "csr": rng.random((128, 128)) < 0.02,
        "coo": np.arange(128 * 128).reshape(128, 128) == 77,
        "bsr 16": blocks,
        "1:4": (np.arange(128) % 4 == 1)[:, None] & np.ones((1, 128), bool),
        "fan-in": (np.arange(128)[:, None] - rng.permutation(128)) % 128 < 2,
    }
    for name, mask in masks.items():
        choice = formats.choose(mask, jnp.float32)
        array = rng.normal(size=mask.shape).astype(np.float32)
        stored = choice.make(array, mask)
        assert (name, stored.nbytes) == (choice.name, choice.nbytes)
        assert choice.nbytes == min(formats.sizes(mask, jnp.float32).values())
        same_bits(stored.todense(), on_mask(array, mask))
    assert formats.choose(rng.random((128, 128)) < 0.9, jnp.bool_).name == "dense"


def test_the_table_of_a_tree():
    params = {"kernel": jax.ShapeDtypeStruct((100, 30), jnp.bfloat16), "bias": jnp.ones(30)}
    mask = np.random.default_rng(8).random((100, 30)) < 0.1
    found = formats.table(params, {"kernel": jnp.asarray(mask), "bias": jnp.array(True)})
    bias, kernel = found
    assert (bias.path, bias.best, bias.density) == ("bias", "dense", 1.0)
    assert kernel.sizes["dense"] == 6000
    assert kernel.sizes["bitmask"] == 375 + 2 * mask.sum()
    assert kernel.sizes["csr"] == 2 * 101 + 3 * mask.sum()
    assert found.dense == 6120 and found.smallest == 120 + min(kernel.sizes.values())
    assert "kernel" in str(found) and f"{found.smallest:,}" in str(found)
