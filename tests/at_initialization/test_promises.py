"""What every method before training promises: exact counts, in any structure and dtype, and masks
that hang on the arguments alone."""

import inspect
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import at_initialization
from sparsejax.at_initialization.rounds import prune_in_rounds
from tests.test_contracts import QUICK, STRUCTURES, check_structure, check_units, two_layers

BATCHES = (
    jax.random.normal(jax.random.key(5), (2, 6, 3, 3, 4)),
    jax.random.randint(jax.random.key(6), (2, 6), 0, 12),
)
INPUTS = jax.ShapeDtypeStruct((1, 3, 3, 4), jnp.float32)


def apply(params, images):
    kernel = params["conv"]["kernel"]
    images = images.astype(kernel.dtype)
    x = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x).mean((1, 2))
    return x @ params["dense"]["kernel"] + params["dense"]["bias"]


def loss(params, batch, temperature=1.0):
    images, labels = batch
    logits = apply(params, images).astype(jnp.float32) / temperature
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


METHODS = {
    "force": lambda p, key, s, rounds=3, **o: at_initialization.force(
        loss, p, BATCHES, s, rounds=rounds, **o
    ),
    "grasp": lambda p, key, s, **o: at_initialization.grasp(loss, p, BATCHES, s, **o),
    "iterative_snip": lambda p, key, s, rounds=3, **o: at_initialization.iterative_snip(
        loss, p, BATCHES, s, rounds=rounds, **o
    ),
    "magnitude": lambda p, key, s, **o: at_initialization.magnitude(p, s, **o),
    "random": at_initialization.random,
    "snip": lambda p, key, s, **o: at_initialization.snip(loss, p, BATCHES, s, **o),
    "synflow": lambda p, key, s, rounds=3, **o: at_initialization.synflow(
        apply, p, INPUTS, s, rounds=rounds, **o
    ),
}
INVERTED = {
    name: function
    for name in METHODS
    if "inverted" in inspect.signature(function := getattr(at_initialization, name)).parameters
}


def test_the_table_has_every_method():
    public = {name for name in at_initialization.__all__ if name != "shuffled"}
    assert public == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_counts_are_exact_for_any_sparsity_in_one_trace(name):
    params, key, traces = two_layers(), jax.random.key(0), []
    rows = {"distribution": sparsejax.uniform, "structure": STRUCTURES["1:4"]}

    def both(sparsity):
        traces.append(sparsity)
        return [METHODS[name](params, key, sparsity, **options) for options in ({}, rows)]

    compiled = jax.jit(both, compiler_options=QUICK)
    for sparsity in (0.5, 0.75):
        pooled, in_rows = compiled(jnp.float32(sparsity))
        assert sum(int(m["kernel"].sum()) for m in pooled.values()) == 224 * (1 - sparsity)
        assert pooled["dense"]["bias"].shape == ()
        for layer in ("conv", "dense"):
            assert pooled[layer]["kernel"].dtype == bool
            check_units(STRUCTURES["1:4"], in_rows[layer]["kernel"], Fraction(sparsity))
    assert len(traces) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_in_rounds(structure):
    params, chosen = two_layers(), STRUCTURES[structure]
    masks = jax.jit(
        lambda: prune_in_rounds(
            lambda masks: sparsejax.apply_masks(params, masks), params, 0.75, 3,
            distribution=sparsejax.uniform, structure=chosen,
            prunable=sparsejax.default_prunable,
        ),
        compiler_options=QUICK,
    )()  # fmt: skip
    for layer in ("conv", "dense"):
        check_structure(structure, masks[layer]["kernel"], params[layer]["kernel"])
        check_units(chosen.at(f"{layer}/kernel"), masks[layer]["kernel"], Fraction(3, 4))


@pytest.mark.parametrize("name", METHODS)
def test_low_precision(name):
    params, key = two_layers(jnp.bfloat16), jax.random.key(0)
    masks = jax.jit(
        lambda: METHODS[name](params, key, 0.75, distribution=sparsejax.uniform),
        compiler_options=QUICK,
    )()
    assert sparsejax.counts(params, masks) == {"conv/kernel": (32, 128), "dense/kernel": (24, 96)}


@pytest.mark.parametrize("name", INVERTED)
def test_inverted_scores_keep_the_others(name):
    """In one round, at a half, these are all the others."""
    params, key = two_layers(), jax.random.key(0)
    options = {"distribution": sparsejax.uniform}
    if "rounds" in inspect.signature(INVERTED[name]).parameters:
        options["rounds"] = 1
    masks, others = jax.jit(
        lambda: [METHODS[name](params, key, 0.5, inverted=i, **options) for i in (False, True)],
        compiler_options=QUICK,
    )()
    for layer in ("conv", "dense"):
        assert not np.any(masks[layer]["kernel"] & others[layer]["kernel"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("sparsity", "options", "message"),
    [
        (1.5, {}, "sparsity must lie between 0 and 1"),
        (0.5, {"prunable": lambda path, leaf: False}, "no parameter is prunable"),
        (0.5, {"structure": sparsejax.nm(2, 7)}, "does not fit 'conv/kernel'"),
        (0.9, {"structure": sparsejax.nm(2, 4)}, "keeps at least 2 of 4"),
    ],
)
def test_what_cannot_be_is_refused(name, sparsity, options, message):
    with pytest.raises(ValueError, match=message):
        options = {"distribution": sparsejax.uniform} | options
        METHODS[name](two_layers(), jax.random.key(0), sparsity, **options)


@pytest.mark.parametrize("structure", ["unstructured", "1:4", "channel"])
def test_shuffled_masks_keep_the_counts_of_each_row(structure):
    params, chosen = two_layers(), STRUCTURES[structure]
    keys = jax.random.split(jax.random.key(0), 3)
    masks = sparsejax.random_masks(params, keys[0], 0.75, structure=chosen)
    shuffle = jax.jit(
        lambda key: at_initialization.shuffled(masks, params, key, structure=chosen),
        compiler_options=QUICK,
    )
    first, second = map(shuffle, keys[1:])
    for layer in ("conv", "dense"):
        check_structure(structure, first[layer]["kernel"], params[layer]["kernel"])
        check_units(chosen, first[layer]["kernel"], Fraction(3, 4))
    for a, b in ((masks, first), (first, second)):
        assert any(np.any(a[layer]["kernel"] != b[layer]["kernel"]) for layer in a)
    assert first["dense"]["bias"].shape == ()
