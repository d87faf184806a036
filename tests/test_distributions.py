"""How one budget is shared: against the published procedures, and to the entry."""

import functools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import sparsejax
from sparsejax import distributions
from sparsejax.distributions import custom, er, erk, global_, threshold, uniform
from sparsejax.typing import Leaf

RESNET = [(3, 3, 3, 16), *[(3, 3, 16, 16)] * 4, (3, 3, 16, 32), (3, 3, 32, 64), (64, 10)]
LENET = [(784, 300), (300, 100), (100, 10)]
LENET5 = [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)]
THIN = [(1, 1), (1, 7), (2, 1000), (3, 5, 7)]
NETWORKS = [RESNET, LENET, LENET5, THIN, [(12, 30)], [(0, 5), (4, 4)], [(6, 6)] * 5]
DENSITIES = [0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 0.95, 0.99, 1.0]


def leaves_of(shapes):
    return [Leaf(f"layer_{i}/kernel", shape) for i, shape in enumerate(shapes)]


def published(shapes, density, kernel):
    """The procedure of Evci et al. 2020: layers that would be more than dense become dense, those
    of the largest probability first, until one epsilon serves all others."""
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    if kernel:
        raw = np.array([sum(s) / max(math.prod(s), 1) for s in shapes])
    else:
        raw = np.array([(s[-2] + s[-1]) / max(s[-2] * s[-1], 1) for s in shapes])
    dense = np.zeros(len(shapes), bool)
    while not dense.all():
        ones = density * sizes[~dense].sum()
        zeros = (1 - density) * sizes[dense].sum()
        weight = (raw * sizes)[~dense].sum()
        epsilon = (ones - zeros) / weight if weight else 0.0
        probabilities = np.where(dense, 1.0, epsilon * raw)
        if probabilities.max() <= 1 + 1e-12:
            return probabilities * sizes
        dense |= raw == raw[~dense].max()
    return sizes


@pytest.mark.parametrize("shapes", NETWORKS)
@pytest.mark.parametrize("kernel", [False, True])
def test_erdos_renyi_is_the_published_procedure_with_an_exact_total(shapes, kernel):
    share_out = erk if kernel else er
    sizes = [math.prod(shape) for shape in shapes]
    for density in DENSITIES:
        kept = share_out(leaves_of(shapes), density)
        wanted = published(shapes, density, kernel)
        assert all(
            isinstance(n, int) and 0 <= n <= size for n, size in zip(kept, sizes, strict=True)
        )
        assert sum(kept) == round(sum(sizes) * density)
        # The procedure knows no rounding of the total, which makes out less than one entry here.
        assert np.abs(np.array(kept) - wanted).max() < 1.5
        if float(sum(sizes) * density).is_integer():
            assert np.abs(np.array(kept) - wanted).max() < 1


def test_layers_become_dense_one_after_the_other_as_the_budget_grows():
    def dense(density):
        kept = erk(leaves_of(RESNET), density)
        return {s for n, s in zip(kept, RESNET, strict=True) if n == math.prod(s)}

    stem, head, block, wider = (3, 3, 3, 16), (64, 10), (3, 3, 16, 16), (3, 3, 16, 32)
    assert dense(0.1) == set()
    assert dense(0.3) == {stem, head}
    assert dense(0.8) == {stem, head, block, wider}
    assert dense(1.0) == set(RESNET)


@pytest.mark.parametrize("share_out", [er, erk, uniform])
@pytest.mark.parametrize("shapes", NETWORKS)
def test_a_traced_density_gives_the_same_counts(share_out, shapes):
    leaves = leaves_of(shapes)
    densities = jnp.array(DENSITIES, jnp.float32)
    traced = jax.jit(jax.vmap(lambda density: jnp.stack(share_out(leaves, density))))(densities)
    assert traced.dtype == jnp.uint32
    assert traced.tolist() == [share_out(leaves, density) for density in DENSITIES]


@pytest.mark.parametrize("share_out", [er, erk, uniform])
@given(st.lists(st.tuples(*[st.integers(1, 40)] * 2), min_size=1, max_size=6), st.data())
def test_any_shapes_give_counts_that_fit_and_add_up(share_out, shapes, data):
    leaves = leaves_of(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    millionths = sorted(data.draw(st.lists(st.integers(0, 10**6), min_size=2, max_size=6)))
    before = None
    for density in (m / 10**6 for m in millionths):
        kept = share_out(leaves, density)
        assert all(0 <= n <= size for n, size in zip(kept, sizes, strict=True))
        if share_out is not uniform:
            assert sum(kept) == distributions.rounding.portion(sum(sizes), density)
        # Largest remainders may give one entry back as the budget grows, and no more.
        if before is not None:
            slack = 0 if share_out is uniform else 1
            assert all(new >= old - slack for new, old in zip(kept, before, strict=True))
            assert sum(kept) >= sum(before)
        before = kept


@pytest.mark.parametrize("share_out", [er, erk, uniform, global_])
def test_nothing_and_everything(share_out):
    leaves = [leaf._replace(scores=jnp.ones(leaf.shape)) for leaf in leaves_of([(0, 5), *THIN])]
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    traced = jax.jit(lambda d: [jnp.asarray(n) for n in share_out(leaves, d)])
    for density in 0, 1:
        wanted = [size * density for size in sizes]
        assert [int(n) for n in traced(float(density))] == wanted
        if share_out is not global_:
            assert share_out(leaves, density) == share_out(leaves, float(density)) == wanted


def test_uniform_leaves_named_layers_dense_and_outside_of_the_budget():
    leaves = [
        Leaf("stem/kernel", (10, 10)),
        Leaf("a/kernel", (20, 10)),
        Leaf("head/kernel", (5, 5)),
    ]
    assert uniform(leaves, 0.1, dense=["stem/*", "head/kernel"]) == [100, 20, 25]
    assert uniform(leaves, 0.1) == [10, 20, 2]
    traced = jax.jit(lambda d: uniform(leaves, d, dense=["stem/*"]))(0.1)
    assert [int(n) for n in traced] == [100, 20, 2]
    with pytest.raises(ValueError, match=r"'Stem/\*' matches no prunable leaf; .* stem/kernel, a"):
        uniform(leaves, 0.1, dense=["Stem/*"])


@pytest.mark.parametrize("base", [None, uniform, er, erk, global_])
def test_custom_shares_out_what_no_pattern_names_by_any_other_distribution(base):
    scores = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(LENET)]
    leaves = [leaf._replace(scores=s) for leaf, s in zip(leaves_of(LENET), scores, strict=True)]
    kept = custom(leaves, 0.1, sparsities={"layer_1/*": 0.25}, base=base)
    assert int(kept[1]) == 22500
    others = (base or uniform)([leaves[0], leaves[2]], 0.1)
    assert [int(n) for n in (kept[0], kept[2])] == [int(n) for n in others]


def test_of_several_patterns_the_first_that_matches_counts():
    leaves = leaves_of([(10, 10)] * 3)
    sparsities = {"layer_2/kernel": 0.0, "layer_*": 0.5}
    assert custom(leaves, 0.1, sparsities=sparsities) == [50, 50, 100]
    assert custom(leaves, 0.1, sparsities=dict(reversed(sparsities.items()))) == [50, 50, 50]


def test_custom_refuses_unknown_patterns_and_impossible_sparsities():
    leaves = leaves_of([(10, 10)] * 2)
    with pytest.raises(ValueError, match="the pattern 'layer_7' matches no prunable leaf"):
        custom(leaves, 0.1, sparsities={"layer_0/*": 0.5, "layer_7": 0.5})
    with pytest.raises(ValueError, match="the sparsity of layer_0/kernel must lie between 0 and 1"):
        custom(leaves, 0.1, sparsities={"layer_0/*": 1.5})


def test_custom_takes_traced_sparsities():
    leaves = leaves_of([(10, 10)] * 2)
    kept = jax.jit(lambda s, d: custom(leaves, d, sparsities={"layer_0/*": s}))(0.9, 0.25)
    assert [int(n) for n in kept] == [10, 25]


def scored(seed, ties):
    rng = np.random.default_rng(seed)
    shapes = [(5, 7), (3, 3, 2, 4), (1, 1), (0, 3), (40, 2)]
    values = [rng.integers(0, 4, s) if ties else rng.normal(size=s) for s in shapes]
    first = [rng.random(s) < 0.4 for s in shapes]
    return [v.astype(np.float32) for v in values], first


def pooled(scores, first, total):
    """How many of the best of all entries, laid end to end, lie in each array."""
    ends = np.cumsum([s.size for s in scores])[:-1]
    flat, flags = (np.concatenate([x.ravel() for x in xs]) for xs in (scores, first))
    chosen = np.zeros(flat.shape, bool)
    chosen[np.lexsort((-flat, ~flags))[:total]] = True
    return [int(part.sum()) for part in np.split(chosen, ends)]


@jax.jit
def share_of_all(scores, first, density):
    named = zip(scores, first, strict=True)
    return global_([Leaf(str(i), s.shape, s, f) for i, (s, f) in enumerate(named)], density)


@given(st.integers(0, 99), st.booleans(), st.integers(0, 1000))
def test_global_is_one_selection_over_all_entries(seed, ties, thousandths):
    scores, first = scored(seed, ties)
    density = thousandths / 1000
    total = distributions.rounding.portion(sum(s.size for s in scores), density)
    nothing = [np.zeros(s.shape, bool) for s in scores]
    for preferred in first, nothing:
        kept = [int(n) for n in share_of_all(scores, preferred, density)]
        assert kept == pooled(scores, preferred, total)
        assert sum(kept) == total


def test_global_counts_units_that_share_a_score_by_their_entries():
    wide = Leaf("conv", (2, 2, 3, 4), jnp.array([1.0, 5.0, 3.0, 7.0]).reshape(1, 1, 1, 4))
    small = Leaf("dense", (2, 3), jnp.full((2, 3), 4.0))
    assert [int(n) for n in global_([wide, small], 0.5)] == [24, 3]


def test_masks_of_a_global_budget_are_the_largest_weights_of_all():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (20, 30)), "bias": jnp.ones(30)},
        "b": {"kernel": 3 * jax.random.normal(keys[1], (30, 10))},
    }
    size = jax.tree.map(jnp.abs, params)
    masks = sparsejax.masks_from_scores(params, size, 0.9, distribution=global_)
    kept = np.concatenate([np.asarray(masks[n]["kernel"]).ravel() for n in "ab"])
    flat = np.concatenate([np.asarray(size[n]["kernel"]).ravel() for n in "ab"])
    assert kept.sum() == 90
    np.testing.assert_array_equal(kept, flat >= np.sort(flat)[-90])


def test_a_threshold_keeps_what_exceeds_it():
    scores = [jnp.array([[1.0, jnp.nan], [3.0, 2.0]]), jnp.array([[2.5, -jnp.inf, jnp.inf]])]
    leaves = [Leaf(str(i), s.shape, s) for i, s in enumerate(scores)]
    assert [int(n) for n in threshold(leaves, 1.0, value=2.0)] == [1, 2]
    first = leaves[1]._replace(first=jnp.array([[True, True, False]]))
    assert int(threshold([first], 1.0, value=2.0)[0]) == 1
    traced = jax.jit(lambda v: threshold(leaves, 1.0, value=v))(0.5)
    assert [int(n) for n in traced] == [3, 2]


@pytest.mark.parametrize("share_out", [global_, functools.partial(threshold, value=0.5)])
def test_what_ranks_by_scores_refuses_leaves_without(share_out):
    with pytest.raises(ValueError, match="'layer_0/kernel' comes without them"):
        share_out(leaves_of(LENET), 0.5)


@pytest.mark.parametrize("share_out", [uniform, er, erk, global_])
@pytest.mark.parametrize("density", [-0.1, 1.5])
def test_a_density_that_is_no_fraction_is_refused(share_out, density):
    leaves = [leaf._replace(scores=jnp.ones(leaf.shape)) for leaf in leaves_of([(2, 3)])]
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        share_out(leaves, density)


def test_axes_of_er_may_be_named():
    shapes = [(30, 4), (6, 50)]
    turned = leaves_of([shape[::-1] for shape in shapes])
    assert er(turned, 0.3, input_axis=-1, output_axis=-2) == er(leaves_of(shapes), 0.3)
    convolution = leaves_of([(3, 3, 8, 16), (5, 40)])
    moved = leaves_of([(16, 8, 3, 3), (40, 5)])
    wanted = er(convolution, 0.2)
    assert er(moved, 0.2, input_axis=1, output_axis=0) == wanted
    # The window does not count: all its weights are as dense as the channels are connected.
    assert wanted[0] != erk(convolution, 0.2)[0]
