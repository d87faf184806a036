"""Dead, unused and duplicated neurons, against counts by hand and a loop over pairs."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import Neurons, neurons


def test_against_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 9)).astype(np.float32)
    mask = rng.random((12, 9)) < 0.3
    mask[3] = mask[:, 4] = False
    mask[:, 7], weights[:, 7] = mask[:, 2], -2.5 * weights[:, 2]  # opposite: no duplicate
    mask[:, 8], weights[:, 8] = mask[:, 2], 0.5 * weights[:, 2]
    found = neurons({"w": jnp.asarray(weights)}, {"w": jnp.asarray(mask)})["w"]
    masked = np.where(mask, weights, 0)
    dead = [j for j in range(9) if not mask[:, j].any()]
    twice = set()
    for i in range(9):
        for j in range(i + 1, 9):
            a, b = masked[:, i], masked[:, j]
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            if lengths and a @ b / lengths >= 0.999:
                twice.add(j)
    unused = sum(not row.any() for row in mask)
    assert found == Neurons(12, unused, 9, len(dead), len(twice))
    assert 4 in dead and 8 in twice and 7 not in twice and unused >= 1


def test_filters_axes_and_channel_masks():
    params = {"conv": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}
    masks = {"conv": jnp.array([[[[True, False, True, False]]]]), "bias": jnp.array(True)}
    # The two filters that are left are the same.
    assert neurons(params, masks) == {"conv": Neurons(2, 0, 4, 2, 1)}
    swapped = {"w": jnp.array([[1.0, 2.0], [0.0, 0.0], [0.0, 1.0]])}
    found = neurons(swapped, {"w": swapped["w"] != 0}, input_axis=-1, output_axis=-2)
    assert found["w"] == Neurons(2, 0, 3, 1, 0)


def test_weights_that_are_zero_on_the_mask_are_no_duplicates():
    params = {"w": jnp.zeros((4, 3))}
    assert neurons(params, {"w": jnp.ones((4, 3), bool)})["w"].duplicated == 0


def test_a_missing_axis_is_refused():
    with pytest.raises(ValueError, match=r"'b' of shape \(3,\) lacks axis -2"):
        neurons({"b": jnp.ones(3)}, {"b": jnp.ones(3, bool)})
