"""The models: their sizes, and how they use batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments import models

MNIST, CIFAR, IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)
TEXT = (128,)


def _examples(n: int, shape) -> jax.Array:
    return jnp.zeros((n, *shape), int if shape == TEXT else float)


def _sizes(model, shape) -> dict[str, int]:
    variables = jax.eval_shape(model.init, jax.random.key(0), _examples(1, shape))
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        sizes[path[-1].key] = sizes.get(path[-1].key, 0) + leaf.size
    return sizes


@pytest.mark.parametrize(
    ("model", "shape", "sizes"),
    [
        (models.lenet300(), MNIST, {"kernel": 266_200, "bias": 410}),
        (models.lenet300((16,)), (8, 8, 1), {"kernel": 64 * 16 + 160, "bias": 26}),
        (models.lenet5_caffe(), MNIST, {"kernel": 430_500, "bias": 580}),
        (models.small_cnn(), MNIST, {"kernel": 421_408, "bias": 234}),
        # 19 convolutions, 19 norms and the last layer, as in table 6 of the paper: 0.27 M.
        (models.resnet20(), CIFAR, {"kernel": 268_336, "scale": 688, "bias": 698}),
        # Half of the channels between two convolutions, and of the weights within the blocks.
        (
            models.resnet20(inner=[8] * 3 + [16] * 3 + [32] * 3),
            CIFAR,
            {"kernel": (268_336 - 432 - 640) // 2 + 432 + 640, "scale": 520, "bias": 530},
        ),
        # One convolution, nine blocks of two, three shortcuts, 19 norms and the last layer.
        (models.wrn22_2(), CIFAR, {"kernel": 1_076_912, "scale": 1_360, "bias": 1_370}),
        # 25.6 M, of which 25,503 K are weights that can be pruned.
        (models.resnet50(), IMAGENET, {"kernel": 25_502_912, "scale": 26_560, "bias": 27_560}),
        # Blocks of 12 width² weights, and the last layer.
        (
            models.text_transformer(),
            TEXT,
            {
                "kernel": 4 * 12 * 192**2 + 192 * 65,
                "bias": 4 * (6 + 5) * 192 + 192 + 65,
                "scale": 9 * 192,
                "embedding": 65 * 192,
                "position_embedding": 128 * 192,
            },
        ),
    ],
)
def test_number_of_parameters(model, shape, sizes):
    assert _sizes(model, shape) == sizes


@pytest.mark.parametrize("name", models.__all__)
def test_every_model_gives_logits(name):
    shape = MNIST if "lenet" in name or "cnn" in name else CIFAR
    shape = TEXT if "text" in name else shape
    options = {"blocks": (1, 1, 1, 1)} if name == "resnet50" else {}
    model = getattr(models, name)(classes=7, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), _examples(1, shape))
    logits = jax.eval_shape(model.apply, variables, _examples(5, shape))
    assert logits.shape == ((5, 128, 7) if shape == TEXT else (5, 7))


def test_resnet_updates_batch_statistics_only_in_training():
    model = models.resnet20(width=2)
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))

    @jax.jit
    def run():
        variables = model.init(jax.random.key(0), images)
        trained = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables, trained, model.apply(variables, images)

    variables, (logits, updated), still = run()
    assert not np.allclose(logits, still)
    before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, updated))
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_transformer_looks_back_and_not_ahead():
    model = models.text_transformer(layers=2, width=8, heads=2, classes=7)
    text = jax.random.randint(jax.random.key(1), (1, 6), 0, 7)
    variables = jax.jit(model.init)(jax.random.key(0), text)
    logits = jax.jit(model.apply)(variables, jnp.concatenate([text, text.at[0, 3].add(1) % 7]))
    np.testing.assert_array_equal(logits[0, :3], logits[1, :3])
    assert all(not np.allclose(a, b) for a, b in zip(logits[0, 3:], logits[1, 3:], strict=True))


def test_the_layers_of_a_transformer_are_pruned_one_by_one():
    model = models.text_transformer(layers=1, width=8, heads=2, classes=7)
    text = jax.random.randint(jax.random.key(1), (3, 6), 0, 7)
    params = jax.jit(model.init)(jax.random.key(0), text)["params"]
    norm = jax.jit(lambda p: jnp.linalg.norm(model.apply({"params": p}, text)))
    points = list(sparsejax.sensitivity(norm, params, [0.0, 1.0]))
    layers = [f"block_0/attention/{name}" for name in ("key", "out", "query", "value")]
    layers += ["block_0/mlp/down", "block_0/mlp/up"]
    assert [p.layer for p in points[::2]] == [*(f"{layer}/kernel" for layer in layers), None]
    values = [(p.sparsity, float(p.value)) for p in points]
    assert len({value for sparsity, value in values if sparsity == 0.0}) == 1
    assert all(value != values[0][1] for sparsity, value in values if sparsity == 1.0)


def _shapes(model, shape, blocks) -> list[tuple[int, ...]]:
    """The shapes of what leaves the blocks."""
    images = jnp.zeros((1, *shape))
    _, state = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, capture_intermediates=True)
    )
    return [state["intermediates"][block]["__call__"][0].shape[1:] for block in blocks]


def test_the_resolution_halves_from_stage_to_stage():
    blocks = [f"Block_{i}" for i in range(9)]
    shapes = [(32, 32, 2)] * 3 + [(16, 16, 4)] * 3 + [(8, 8, 8)] * 3
    assert _shapes(models.resnet20(width=2), CIFAR, blocks) == shapes
    blocks = [f"WideBlock_{i}" for i in range(9)]
    shapes = [(32, 32, 16)] * 3 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3
    assert _shapes(models.wrn22_2(width=1), CIFAR, blocks) == shapes
    blocks = [f"Bottleneck_{i}" for i in range(4)]
    shapes = [(56, 56, 8), (28, 28, 16), (14, 14, 32), (7, 7, 64)]
    assert _shapes(models.resnet50((1, 1, 1, 1), width=2), IMAGENET, blocks) == shapes


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.lenet300((0,)),
        lambda: models.small_cnn((8, -1)),
        lambda: models.resnet20(width=0),
        lambda: models.resnet20(inner=(1,) * 8),
        lambda: models.resnet20(inner=(1,) * 8 + (0,)),
        lambda: models.resnet50((3, 0), 4),
        lambda: models.wrn22_2(width=0),
        lambda: models.text_transformer(layers=0),
    ],
)
def test_impossible_widths_are_refused(build):
    with pytest.raises(ValueError, match="at least 1"):
        build()


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="heads: 5 must divide the width, 192"):
        models.text_transformer(heads=5)
