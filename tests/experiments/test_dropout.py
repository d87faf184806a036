"""Dropout whose rate follows the connections left, in the models and in training."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import models
from experiments.checkpoint import digest
from experiments.train import init, prepare, train, train_step


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _apply(model):
    """`(params, images, train) -> logits`, compiled."""

    def apply(params, images, train):
        rngs = {"dropout": jax.random.key(1)}
        return model.apply({"params": params}, images, train=train, rngs=rngs)

    return jax.jit(apply, static_argnums=2)


def _zeros(model, images):
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)


@pytest.mark.parametrize(
    ("make", "shape", "layers"),
    [
        (lambda **o: models.lenet300((8, 50), **o), (4, 4, 1), ("Dense_1", "Dense_2")),
        (models.lenet5_caffe, (16, 16, 1), ("Dense_0", "Dense_1")),
    ],
    ids=["lenet300", "lenet5_caffe"],
)
def test_the_rate_is_scaled_by_the_root_of_the_density(make, shape, layers):
    """Black images: all units of the last hidden layer are 1, and the first logit reads one."""
    model, images = make(dropout=0.5), np.zeros((2000, *shape), np.float32)
    params, apply = _zeros(model, images), _apply(model)
    hidden, last = (params[name] for name in layers)
    hidden["bias"] += 1
    last["kernel"][0, 0] = 1
    for density in (0.04, 0.25, 1.0):
        hidden["kernel"].flat[: round(density * hidden["kernel"].size)] = 0.1
        logits = apply(params, images, True)
        rate = 0.5 * density**0.5
        assert float((logits[:, 0] == 0).mean()) == pytest.approx(rate, abs=0.04)
        assert float(logits.max()) == pytest.approx(1 / (1 - rate), rel=1e-5)
    assert (apply(params, images, False)[:, 0] == 1).all()


def test_each_hidden_layer_follows_its_own_kernel():
    """With all connections gone, a layer drops nothing, whatever the others do."""
    model, images = models.lenet300((30, 20), dropout=0.9), np.ones((50, 4, 4, 1), np.float32)
    params, apply = _zeros(model, images), _apply(model)
    params["Dense_1"]["bias"] += 1
    params["Dense_2"]["kernel"] += 1
    params["Dense_0"]["kernel"] += 1
    assert (apply(params, images, True) == 20).all()
    params["Dense_0"]["kernel"] *= 0
    params["Dense_1"]["kernel"] += 1
    assert not (apply(params, images, True) == 20).any()


@pytest.mark.parametrize("name", ["lenet300", "lenet5_caffe"])
def test_without_dropout_nothing_changes(name):
    images = jnp.zeros((1, 28, 28, 1))
    with_, without = (
        jax.eval_shape(getattr(models, name)(**options).init, jax.random.key(0), images)
        for options in ({"dropout": 0.5}, {})
    )
    assert with_ == without
    # No key is asked for, and training is as evaluation is.
    model = getattr(models, name)()
    training, evaluation = (
        str(jax.make_jaxpr(lambda v, train=train: model.apply(v, images, train))(without))
        for train in (True, False)
    )
    assert training == evaluation
    assert "random" not in training


@pytest.fixture
def dropped(tiny):
    tiny.model = ConfigDict({"name": "lenet300", "widths": (20,), "dropout": 0.5})
    return tiny


def test_what_is_dropped_is_a_function_of_seed_and_step(dropped):
    """One batch, taken at two steps and with two seeds, gives different losses."""
    losses = {}
    for seed in (0, 1):
        dropped.seed = seed
        experiment = prepare(dropped)
        state = init(experiment._replace(seed=0))
        batch = jax.tree.map(lambda x: x[:32], experiment.dataset.train)
        step = jax.jit(lambda s, b, e=experiment: train_step(e, s, b)[1]["loss"])
        for at in (0, 1, 0):
            losses.setdefault((seed, at), []).append(
                float(step(state._replace(step=jnp.int32(at)), batch))
            )
    assert losses[0, 0][0] == losses[0, 0][1]
    assert len({values[0] for values in losses.values()}) == 4


def test_a_stopped_run_with_dropout_continues_to_the_same_bits(tmp_path, dropped):
    whole = train(dropped, tmp_path / "whole", console=_console())
    asked = iter(range(1000))
    stopped = train(
        dropped, tmp_path / "run", stop=lambda: next(asked) + 1 >= 3, console=_console()
    )
    assert stopped.summary is None
    result = train(dropped, tmp_path / "run", console=_console())
    assert digest(result.state) == digest(whole.state)
    assert result.history == whole.history
    dropped.model.dropout = 0.0
    assert train(dropped, tmp_path / "none", console=_console()).history != whole.history
