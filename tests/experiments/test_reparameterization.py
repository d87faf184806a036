"""Runs that train something else than the weights: what is evaluated is what is left in the end."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments.checkpoint import digest
from experiments.data import batch_indices
from experiments.errors import UserError
from experiments.forward import mean_loss
from experiments.train import init, prepare, train
from sparsejax import reparameterization

QUIET = Console(file=io.StringIO())


@pytest.fixture
def gated(tiny):
    tiny.rule = ConfigDict({"name": "reparameterization.l0", "strength": 1e-2})
    tiny.transform.name = "reparameterize"
    tiny.optimizer.learning_rate = 0.5
    return tiny


def test_a_run_reports_what_it_ends_with_and_continues_to_the_same_bits(gated, tmp_path):
    whole = train(gated, tmp_path / "whole", console=QUIET)
    experiment = prepare(gated)
    params, masks = reparameterization.l0(1e-2).finish(whole.state.params)
    kernel, mask = params["Dense_0"]["kernel"], np.asarray(masks["Dense_0"]["kernel"])
    assert 0 < mask.sum() < mask.size
    assert whole.summary["kept"] == mask.sum() + 10
    assert whole.summary["layers"]["Dense_0/kernel"] == {"kept": mask.sum(), "total": 640}
    assert whole.summary["sparsity"] == pytest.approx(1 - mask.mean())
    assert whole.summary["bytes"]["dense"] == 4 * 650
    examples = experiment.dataset.test
    images = experiment.dataset.normalise(examples.images).reshape(-1, 64)
    logits = images @ kernel + params["Dense_0"]["bias"]
    accuracy = (logits.argmax(1) == examples.labels).mean()
    assert whole.summary["test_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    validations = [line for line in whole.history if line["kind"] == "validation"]
    assert validations[-1]["density"] == {"Dense_0/kernel": pytest.approx(mask.mean())}
    assert validations[-1]["churn"] > 0

    stops = iter([False, True])
    stopped = train(gated, tmp_path / "run", stop=lambda: next(stops), console=QUIET)
    assert stopped.summary is None
    result = train(gated, tmp_path / "run", console=QUIET)
    assert digest(result.state) == digest(whole.state)
    assert result.history == whole.history


def test_the_first_step_is_that_of_a_plain_loop(gated, tmp_path):
    """The gates are drawn, the penalty counts, and weight decay reaches all that is trained."""
    gated.steps = gated.log_every = gated.eval_every = 1
    gated.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.5})
    gated.weight_decay = 0.01
    result = train(gated, tmp_path, console=QUIET)
    experiment = prepare(gated)
    theta = jax.jit(functools.partial(init, experiment))().params
    method = reparameterization.l0(1e-2)
    rows = batch_indices(0, 0, 1300, 32)
    images = experiment.dataset.normalise(experiment.dataset.train.images[rows])
    labels = experiment.dataset.train.labels[rows]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3), 1)

    def loss(theta):
        logits = experiment.model.apply({"params": method.apply(theta, 0, key)}, images)
        value = mean_loss(logits, labels)
        return value + method.penalty(theta, 0), value

    grads, value = jax.grad(loss, has_aux=True)(theta)
    expected = jax.tree.map(lambda x, g: x - 0.5 * (g + 0.01 * x), theta, grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        result.state.params,
        expected,
    )
    assert result.history[0]["loss"] == pytest.approx(float(value), rel=1e-5)


def test_steps_are_those_of_the_run(gated):
    """The gates of the last step are as hard as they are to become."""
    gated.rule = ConfigDict({"name": "reparameterization.continuous_sparsification"})
    gated.rule.strength = 1.0
    method = prepare(gated).reparameterization
    theta = {"w": reparameterization.Gated(jnp.ones((1, 1)), jnp.full((1, 1), 0.01))}
    for step, beta in ((0, 1), (6, 200**0.5), (12, 200)):
        expected = 1 / (1 + np.exp(-beta * 0.01))
        assert float(method.penalty(theta, step)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("transform.name", "sparsify", r"'sparsify' is impossible .*l0; allowed: reparameterize"),
        ("rule.strenth", 1.0, r"config\.rule\.strenth: reparameterization\.l0 has no such"),
        ("rule.drop_rate", 1.5, r"config\.rule: drop_rate must lie between 0 and 1"),
        ("rule.name", "reparameterization.l1", r"allowed: .*reparameterization\.l0, "),
        ("rule", "static", r"config\.rule\.sparsity: static needs this argument"),
        (
            "rule",
            ConfigDict({"name": "static", "sparsity": 0.5}),
            r"'reparameterize' is impossible with static; allowed: sparsify",
        ),
    ],
)
def test_what_is_wrong_is_refused(path, value, message, gated):
    *parents, key = path.split(".")
    config = gated
    for parent in parents:
        config = config[parent]
    with config.ignore_type(), config.unlocked():
        config[key] = value
    with pytest.raises(UserError, match=message):
        prepare(gated)
