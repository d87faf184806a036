"""What competes and what stands or falls together, for every structure and awkward shapes."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.diagonals import banded, diagonal
from sparsejax.structures import block, by_path, channel, constant_fan_in, nm, units, unstructured


def scores_of(shape, seed=0):
    """Distinct scores, so that the selection is unique."""
    size = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(size).astype(np.float32).reshape(shape)


def select(scores, sparsity, structure, first=None):
    tree = {"w": scores}
    first = None if first is None else {"w": first}
    masks = sparsejax.masks_from_scores(tree, tree, sparsity, structure=structure, first=first)
    return masks["w"]


# The sparsity is traced, so that a structure and a shape are compiled once.
select_compiled = jax.jit(select, static_argnames="structure")


def mask_of(scores, sparsity, structure, first=None):
    return np.asarray(select_compiled(jnp.asarray(scores), jnp.float32(sparsity), structure, first))


FITTING = [
    (unstructured(), (6, 10)),
    (unstructured(), (2, 3, 4, 5)),
    (nm(2, 4), (8, 3)),
    (nm(1, 4, axis=0), (8, 3)),
    (nm(3, 5, axis=-1), (4, 10)),
    (nm(2, 4), (3, 3, 8, 5)),
    (nm(2, 4, axis=3), (3, 3, 2, 8)),
    (nm(1, 3, axis=0), (3, 3, 2, 8)),
    (constant_fan_in(), (6, 10)),
    (constant_fan_in(0), (6, 10)),
    (constant_fan_in(), (3, 3, 4, 6)),
]


@pytest.mark.parametrize(("structure", "shape"), FITTING)
def test_expand_undoes_group(structure, shape):
    array = jnp.asarray(scores_of(shape))
    back = structure.expand(structure.group(array), shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(("structure", "shape"), FITTING)
def test_groups_keep_type_and_order(structure, shape):
    for dtype in jnp.bfloat16, jnp.uint32, jnp.bool_:
        assert structure.group(jnp.zeros(shape, dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(8, 3), (3, 3, 4, 8)])
@pytest.mark.parametrize("axis", [0, -1, -2])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 1), (1, 3)])
def test_nm_keeps_the_n_largest_of_every_m_neighbours(shape, axis, n, m):
    if shape[axis] % m:
        with pytest.raises(ValueError, match=rf"does not fit 'w': {n}:{m} needs an axis that {m}"):
            select(jnp.asarray(scores_of(shape)), 0.0, nm(n, m, axis))
        return
    scores = scores_of(shape)
    mask = mask_of(scores, 1 - n / m, nm(n, m, axis))
    assert mask.shape == shape
    rows = np.moveaxis(scores, axis, -1).reshape(-1, m)
    kept = np.moveaxis(mask, axis, -1).reshape(-1, m)
    np.testing.assert_array_equal(kept, rows >= np.sort(rows, axis=1)[:, [m - n]])


def test_nm_follows_a_density_above_its_own():
    structure = nm(2, 4)
    for sparsity, kept in [(0.0, 4), (0.1, 4), (0.2, 3), (0.3, 3), (0.4, 2), (0.5, 2)]:
        mask = mask_of(scores_of((16, 5)), sparsity, structure)
        assert (mask.T.reshape(-1, 4).sum(1) == kept).all()
    # Below n of m a traced sparsity cannot be refused, and n stay.
    for sparsity in 0.6, 0.9, 1.0:
        mask = mask_of(scores_of((16, 5)), sparsity, structure)
        assert (mask.T.reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize("structure", [nm(2, 4), block((3, 3)), channel(), constant_fan_in()])
def test_a_traced_sparsity_gives_the_masks_of_a_number(structure):
    scores = scores_of((8, 10))
    mask = select(jnp.asarray(scores), 0.4, structure)
    np.testing.assert_array_equal(mask, mask_of(scores, 0.4, structure))


def test_gradual_pruning_runs_from_m_of_m_to_n_of_m():
    tx = sparsejax.sparsify(
        optax.sgd(0.0), sparsejax.gmp(0.75, begin=1, end=9, period=3, structure=nm(1, 4))
    )
    params = {"w": jnp.asarray(scores_of((8, 6)) + 1)}
    state, update, kept = tx.init(params), jax.jit(tx.update), []
    for _ in range(11):
        updates, state = update({"w": jnp.zeros((8, 6))}, state, params)
        params = optax.apply_updates(params, updates)
        mask = np.asarray(sparsejax.get_masks(state)["w"])
        np.testing.assert_array_equal(params["w"] != 0, mask)
        in_rows = set(mask.T.reshape(-1, 4).sum(1).tolist())
        assert len(in_rows) == 1
        kept += in_rows
    # 0.75 (1 - (1 - t/8)³) at t = 0, 3, 6 and 8: 0, 0.567, 0.738 and 0.75 of 4 entries go.
    assert kept == [4, 4, 4, 4, 2, 2, 2, 1, 1, 1, 1]


RULES = {
    "static": lambda s, **o: sparsejax.static(s, **o),
    "magnitude": lambda s, **o: sparsejax.magnitude_pruning(s, **o),
    "gmp": lambda s, **o: sparsejax.gmp(s, begin=0, end=10, **o),
    "rigl": lambda s, **o: sparsejax.rigl(s, distribution=sparsejax.uniform, **o),
    "set": lambda s, **o: sparsejax.set_(s, distribution=sparsejax.uniform, **o),
    "snip": lambda s, **o: sparsejax.snip(s, distribution=sparsejax.uniform, **o),
    "ste": lambda s, **o: sparsejax.ste_magnitude(s, **o),
}


@pytest.mark.parametrize("name", RULES)
def test_a_sparsity_that_nm_cannot_have_is_refused_before_training(name):
    params = {"dense": {"kernel": jnp.ones((8, 6))}}
    wanted = "2:4 keeps at least 2 of 4 entries, a sparsity of 0.5, but 'dense/kernel' was to keep"
    with pytest.raises(ValueError, match=wanted):
        RULES[name](0.9, structure=nm(2, 4)).init(params)


MISFITS = [
    (nm(2, 4), (6, 4), "2:4 needs an axis that 4 divides, but axis -2"),
    (nm(2, 4), (3, 3, 3, 16), "axis -2 of .3, 3, 3, 16. has 3 entries"),
    (nm(2, 4, axis=2), (8, 8), "2:4 along axis 2 needs that axis"),
    (block((2, 2, 2)), (8, 8), r"blocks of \(2, 2, 2\) need 3 axes"),
    (channel(3), (8, 8), "channels along axis 3 needs that axis"),
    (channel(-3), (8, 8), "channels along axis -3 needs that axis"),
    (constant_fan_in(2), (8, 8), "constant fan-in along axis 2 needs that axis"),
    (by_path({"odd*": nm(2, 4)}), (6, 4), "2:4 needs an axis that 4 divides, but axis -2"),
]


@pytest.mark.parametrize(("structure", "shape", "message"), MISFITS)
def test_a_misfit_is_refused_with_the_path_of_the_leaf(structure, shape, message):
    params = {"dense": {"bias": jnp.ones(3)}, "odd": {"kernel": jnp.ones(shape)}}
    with pytest.raises(ValueError, match="the structure does not fit 'odd/kernel': .*" + message):
        sparsejax.masks_from_scores(params, params, 0.5, structure=structure)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_refuses_a_misfit_before_training(name):
    params = {"odd": {"kernel": jnp.ones((6, 4))}}
    with pytest.raises(ValueError, match="the structure does not fit 'odd/kernel': 2:4 needs"):
        RULES[name](0.5, structure=nm(2, 4)).init(params)


def test_a_leaf_that_is_not_prunable_need_not_fit():
    params = {"stem": jnp.ones((3, 8)), "body": jnp.ones((8, 8))}
    masks = sparsejax.masks_from_scores(
        params, params, 0.5, structure=nm(2, 4), prunable=lambda path, leaf: path != "stem"
    )
    assert masks["stem"].shape == ()
    assert masks["body"].shape == (8, 8)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4), (1, 0)])
def test_impossible_nm_is_refused(n, m):
    with pytest.raises(ValueError, match="N:M needs 1 <= n <= m"):
        nm(n, m)


@pytest.mark.parametrize("sizes", [(), (0, 2), (2, -1)])
def test_impossible_blocks_are_refused(sizes):
    with pytest.raises(ValueError, match="a block needs sizes of at least 1"):
        block(sizes)


def blocks_of(shape, sizes):
    """The index of every block in a parameter, those that are cut off at the edges too."""
    leading = shape[: len(shape) - len(sizes)]
    axes = [[slice(i, i + 1) for i in range(n)] for n in leading]
    for n, size in zip(shape[len(leading) :], sizes, strict=True):
        axes.append([slice(i, min(i + size, n)) for i in range(0, n, size)])
    return list(itertools.product(*axes))


BLOCKED = [
    ((6, 8), (2, 2)),
    ((7, 9), (2, 4)),
    ((5, 3), (8, 8)),
    ((3, 10), (1, 4)),
    ((10, 1), (4, 1)),
    ((3, 3, 5, 7), (2, 3)),
    ((4, 9), (4,)),
    ((1, 1), (2, 2)),
    # Whole windows, of one channel and of several; (9, 9) is more than the window has.
    ((3, 3, 2, 4), (3, 3, 1, 1)),
    ((3, 2, 4, 6), (9, 9, 4, 2)),
]


@pytest.mark.parametrize(("shape", "sizes"), BLOCKED)
def test_blocks_rank_by_the_mean_of_their_entries_and_keep_whole(shape, sizes):
    scores, structure = scores_of(shape), block(sizes)
    blocks = blocks_of(shape, sizes)
    assert units(structure, shape) == len(blocks)
    ranked = np.argsort([-scores[b].astype(np.float64).mean() for b in blocks], kind="stable")
    for sparsity in "0", "0.3", "0.8", "1":
        mask = mask_of(scores, float(sparsity), structure)
        assert mask.shape == shape
        whole = [mask[b].all() for b in blocks]
        assert whole == [mask[b].any() for b in blocks]
        kept = round((1 - Fraction(sparsity)) * scores.size)
        n = round(Fraction(kept * len(blocks), scores.size))
        np.testing.assert_array_equal(np.flatnonzero(whole), np.sort(ranked[:n]))


@pytest.mark.parametrize(("shape", "sizes"), BLOCKED[1:5])
def test_means_of_blocks_count_only_entries_that_exist(shape, sizes):
    grouped = block(sizes).group(jnp.ones(shape, jnp.bfloat16))
    assert grouped.dtype == jnp.float32
    np.testing.assert_allclose(grouped, 1, rtol=1e-6)


def test_block_masks_as_preference_survive_a_round_trip():
    structure = block((2, 3))
    first = mask_of(scores_of((5, 7)), 0.5, structure)
    more = mask_of(scores_of((5, 7), seed=1), 0.2, structure, first)
    less = mask_of(scores_of((5, 7), seed=1), 0.8, structure, first)
    assert (more | ~first).all()
    assert (first | ~less).all()
    assert less.sum() < first.sum() < more.sum()


@pytest.mark.parametrize("shape", [(6, 10), (3, 3, 4, 10)])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_channels_rank_by_their_mean_and_their_masks_broadcast(shape, axis):
    scores = scores_of(shape)
    mask = mask_of(scores, 0.5, channel(axis))
    wide = [n if a == axis % len(shape) else 1 for a, n in enumerate(shape)]
    assert list(mask.shape) == wide
    means = scores.mean(axis=tuple(a for a, n in enumerate(wide) if n == 1 and shape[a] > 1))
    n = round(0.5 * shape[axis])
    assert set(np.flatnonzero(mask)) == set(np.argsort(-means.ravel())[:n])
    params = {"w": jnp.asarray(scores) + 1}
    pruned = sparsejax.apply_masks(params, {"w": jnp.asarray(mask)})["w"]
    assert sparsejax.counts(params, {"w": mask})["w"] == (int((pruned != 0).sum()), scores.size)
    assert (pruned != 0).sum() == n * scores.size // shape[axis]


@pytest.mark.parametrize("shape", [(12, 10), (3, 3, 4, 10), (5, 7), (1, 9)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_every_neuron_keeps_its_own_largest_inputs(shape, axis):
    scores, structure = scores_of(shape), constant_fan_in(axis)
    rows = np.moveaxis(scores, axis, 0).reshape(shape[axis], -1)
    rank = np.argsort(np.argsort(-rows, axis=1), axis=1)
    for sparsity in "0", "0.3", "0.73", "0.9", "1":
        mask = mask_of(scores, float(sparsity), structure)
        kept = np.moveaxis(mask, axis, 0).reshape(shape[axis], -1)
        n = round(Fraction(round((1 - Fraction(sparsity)) * rows.size), len(rows)))
        np.testing.assert_array_equal(kept, rank < n)


@pytest.mark.parametrize(
    "structure",
    [unstructured(), nm(2, 4), block((2, 2)), channel(), constant_fan_in(), diagonal()],
)
def test_parameters_without_entries_have_masks_too(structure):
    params = {"high": jnp.ones((8, 0)), "wide": jnp.ones((0, 8)), "full": jnp.ones((8, 8))}
    rule = sparsejax.static(0.5, structure=structure)
    masks = sparsejax.get_masks(rule.init(params))
    assert sparsejax.counts(params, masks) == {"full": (32, 64), "high": (0, 0), "wide": (0, 0)}


MOVING = [unstructured(), nm(2, 4), block((3, 3)), channel(), constant_fan_in(), banded(3)]


@functools.partial(jax.jit, static_argnames="which")
def moved(masks, drop, grow, fraction, which):
    return sparsejax.move_connections(masks, drop, grow, fraction, structure=MOVING[which])


@pytest.mark.parametrize("which", range(len(MOVING)))
def test_moving_connections_keeps_the_count_of_every_row(which):
    structure = MOVING[which]
    first = {"w": jnp.asarray(mask_of(scores_of((8, 10)), 0.5, structure))}
    drop, grow = ({"w": jnp.asarray(scores_of((8, 10), seed))} for seed in (1, 3))
    old = np.asarray(structure.group(first["w"])).astype(bool)
    axes = structure.axes(old.ndim)
    counts = old.sum(axes)
    for fraction in 0.0, 0.3, 1.0:
        after = moved(first, drop, grow, fraction, which)
        assert after["w"].shape == first["w"].shape
        new = np.asarray(structure.group(after["w"])).astype(bool)
        np.testing.assert_array_equal(new.sum(axes), counts)
        stayed = (old & new).sum(axes)
        # What is dropped may grow again at once, so this bounds the moves.
        assert (stayed >= counts - np.round(fraction * counts)).all()
        assert (stayed < counts).any() == (fraction > 0)


def test_moved_connections_are_the_worst_that_go_and_the_best_that_come():
    mask = jnp.array([[True, True, True, True, False, False, False, False]])
    drop = jnp.array([[3.0, 1.0, 2.0, 4.0, 9.0, 9.0, 9.0, 9.0]])
    grow = jnp.array([[9.0, 5.0, 1.0, 9.0, 2.0, 7.0, 3.0, 4.0]])
    after = sparsejax.move_connections({"w": mask}, {"w": drop}, {"w": grow}, 0.5)["w"]
    # 1 and 2 go, and of them the one with the gradient of 5 comes back, after that of 7.
    assert np.flatnonzero(after).tolist() == [0, 1, 3, 5]


def diagonals_of(shape, width):
    """For each band the entries on it, from the definition: one offset for each entry."""
    m, n = shape[-2:]
    bands = {}
    for *where, i, j in itertools.product(*map(range, shape)):
        offset = (j - i) % n if m <= n else (i - j) % m
        bands.setdefault((*where, offset // width), []).append((*where, i, j))
    return [tuple(np.array(bands[key]).T) for key in sorted(bands)]


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (2, 2, 3, 4)])
def test_diagonals_and_bands_stand_or_fall_by_their_mean(shape, width):
    structure = banded(width) if width > 1 else diagonal()
    scores, bands = scores_of(shape), diagonals_of(shape, width)
    assert units(structure, shape) == len(bands)
    ranked = np.argsort([-scores[b].astype(np.float64).mean() for b in bands], kind="stable")
    for sparsity in "0", "0.3", "0.8", "1":
        mask = mask_of(scores, float(sparsity), structure)
        assert mask.shape == shape
        whole = [mask[b].all() for b in bands]
        assert whole == [mask[b].any() for b in bands]
        kept = round((1 - Fraction(sparsity)) * scores.size)
        n = round(Fraction(kept * len(bands), scores.size))
        np.testing.assert_array_equal(np.flatnonzero(whole), np.sort(ranked[:n]))


def test_impossible_diagonals_are_refused():
    with pytest.raises(ValueError, match="a band needs a width of at least 1"):
        banded(0)
    with pytest.raises(ValueError, match="does not fit 'w': diagonals need two axes"):
        params = {"w": jnp.ones(3)}
        sparsejax.static(0.5, structure=diagonal(), prunable=lambda *_: True).init(params)


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (12, 3)])
def test_nearness_keeps_a_band_around_the_scaled_diagonal(shape):
    params = {"w": jnp.zeros(shape)}
    masks = sparsejax.masks_from_scores(params, sparsejax.nearness(params, None, None), 0.5)
    far = np.array(
        [
            [abs((i + 0.5) / shape[0] - (j + 0.5) / shape[1]) for j in range(shape[1])]
            for i in range(shape[0])
        ]
    )
    mask = np.asarray(masks["w"])
    assert mask.sum() == far.size // 2
    assert far[mask].max() <= far[~mask].min() + 1e-6


def test_each_parameter_has_its_own_structure():
    shapes = {"conv_1": (3, 3, 4, 6), "conv_2": (3, 3, 6, 8), "dense": (8, 6), "head": (6, 4)}
    params = {name: {"kernel": jnp.asarray(scores_of(s, 7))} for name, s in shapes.items()}
    own = {"conv_1*": block((1, 1, 2, 2)), "conv_*": channel(), "dense/*": nm(2, 4)}
    structure = by_path(own)
    masks = sparsejax.masks_from_scores(params, params, 0.5, structure=structure)
    for name, alone in zip(shapes, [*own.values(), unstructured()], strict=True):
        wanted = select(params[name]["kernel"], 0.5, alone)
        np.testing.assert_array_equal(masks[name]["kernel"], wanted)
    drop, grow = (jax.tree.map(f, params) for f in (jnp.cos, jnp.sin))
    after = sparsejax.move_connections(masks, drop, grow, 0.5, structure=structure)
    for name, alone in ("conv_2", channel()), ("dense", nm(2, 4)):
        one = ({"w": tree[name]["kernel"]} for tree in (masks, drop, grow))
        wanted = sparsejax.move_connections(*one, 0.5, structure=alone)["w"]
        np.testing.assert_array_equal(after[name]["kernel"], wanted)
        assert (wanted != masks[name]["kernel"]).any()
    gradual = sparsejax.gmp(0.5, begin=0, end=4, structure=structure).init(params)
    assert jax.tree.map(jnp.shape, gradual.masks) == jax.tree.map(jnp.shape, masks)


def test_impossible_patterns_are_refused():
    with pytest.raises(ValueError, match="at least one path pattern"):
        by_path({})
    params = {"dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    structure = by_path({"dense/kernel": channel(), "*/bias": channel()})
    with pytest.raises(ValueError, match=r"'\*/bias' matches no prunable .* are: dense/kernel"):
        sparsejax.static(0.5, structure=structure).init(params)
    with pytest.raises(ValueError, match=r"ask structure\.at\(path\)"):
        structure.group(jnp.ones((4, 4)))


@pytest.mark.parametrize(
    "structures",
    [[channel(), channel(0)], [banded(2), block((1, 3))]],
)
def test_units_of_all_layers_compete_by_their_mean(structures):
    """With the budget in entries, units are taken from the best mean on, whatever their sizes."""
    shapes, structure = [(8, 6), (6, 12)], by_path(dict(zip("ab", structures, strict=True)))
    params = {
        name: jnp.asarray(np.random.default_rng(3).gamma(2, size=shape).astype(np.float32))
        for name, shape in zip("ab", shapes, strict=True)
    }
    means = {
        name: np.broadcast_to(one.expand(one.group(params[name]), shape), shape)
        for name, one, shape in zip("ab", structures, shapes, strict=True)
    }
    ranked = np.sort(np.concatenate([x.ravel() for x in means.values()]))[::-1]
    for sparsity in 0.2, 0.5, 0.9:
        masks = sparsejax.masks_from_scores(
            params, params, sparsity, structure=structure, distribution=sparsejax.global_
        )
        threshold = ranked[round(len(ranked) * (1 - sparsity)) - 1]
        for name, mean in means.items():
            mask = np.broadcast_to(masks[name], mean.shape)
            # Only the unit at the threshold, which the budget cuts, may be in or out.
            np.testing.assert_array_equal(
                mask[mean != threshold], (mean > threshold)[mean != threshold]
            )
