"""What two sets of masks share, against sets of indices, and chance against a simulation."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import overlap


def masks_of(seed, kept):
    rng = np.random.default_rng(seed)
    tree = {}
    for name, (shape, n) in kept.items():
        flat = np.zeros(np.prod(shape), bool)
        flat[rng.permutation(flat.size)[:n]] = True
        tree[name] = jnp.asarray(flat.reshape(shape))
    return tree


KEPT = {"a": ((6, 5), 12), "b": ((4, 10), 9)}
PARAMS = {"a": jnp.ones((6, 5)), "b": jnp.ones((4, 10)), "c": jnp.ones(3)}


def test_against_sets():
    one = masks_of(0, KEPT) | {"c": jnp.array(True)}
    other = masks_of(1, {"a": ((6, 5), 7), "b": ((4, 10), 20)}) | {"c": jnp.array(True)}
    found = overlap(PARAMS, one, other)
    assert list(found) == ["a", "b", ""]
    sums = np.zeros(3)
    for name in ("a", "b"):
        first, second = ({*np.flatnonzero(m[name])} for m in (one, other))
        assert found[name][:1] + found[name][2:] == (
            len(first & second),
            len(first),
            len(second),
        )
        assert found[name].share == len(first & second) / len(first | second)
        sums += len(first & second), len(first), len(second)
    assert (found[""].both, found[""].first, found[""].second) == tuple(sums)
    assert found[""].chance == found["a"].chance + found["b"].chance


def test_chance_is_the_mean_of_random_masks():
    rng = np.random.default_rng(0)
    draws = [len({*rng.permutation(30)[:12]} & {*rng.permutation(30)[:7]}) for _ in range(4000)]
    one, other = masks_of(0, {"a": ((6, 5), 12)}), masks_of(1, {"a": ((6, 5), 7)})
    assert overlap({"a": jnp.ones((6, 5))}, one, other)["a"].chance == pytest.approx(
        np.mean(draws), rel=0.02
    )


def test_masks_of_channels_and_dense_leaves_count_as_entries():
    params = {"conv": jnp.ones((3, 3, 2, 4)), "w": jnp.ones((2, 2))}
    first = {"conv": jnp.array([[[[True, False, True, False]]]]), "w": jnp.array(True)}
    second = {"conv": jnp.array(True), "w": jnp.array([[True, False], [False, False]])}
    found = overlap(params, first, second)
    assert found["conv"] == (36, 36.0, 36, 72)
    assert found["w"] == (1, 1.0, 4, 1)


def test_same_disjoint_and_empty():
    params = {"w": jnp.ones((1, 4))}
    half = {"w": jnp.array([[True, True, False, False]])}
    none = {"w": jnp.zeros((1, 4), bool)}
    assert overlap(params, half, half)["w"].share == 1
    assert overlap(params, half, {"w": ~half["w"]})["w"].share == 0
    assert overlap(params, none, none)[""].share == 1
    assert overlap({"b": jnp.ones(2)}, {"b": jnp.array(True)}, {"b": jnp.array(True)}) == {
        "": (0, 0.0, 0, 0)
    }
