"""Runs that are pruned before training: their masks are those of the library, and of the seed."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import build
from experiments.checkpoint import digest
from experiments.cohort import train_cohort
from experiments.config import default
from experiments.data import batch_indices
from experiments.errors import UserError
from experiments.forward import mean_loss
from experiments.train import init, prepare, train
from sparsejax import at_initialization

QUIET = Console(file=io.StringIO())


@pytest.fixture
def pruned(tiny):
    tiny.rule = ConfigDict({"name": "at_initialization.snip", "sparsity": 0.8, "batches": 2})
    return tiny


def _prepare(config, **rule):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.rule.update(rule)
    return prepare(config)


def _state(config, **rule):
    experiment = _prepare(config, **rule)
    return experiment, jax.jit(functools.partial(init, experiment))()


def _dense(config, seed=0):
    config = config.copy_and_resolve_references()
    config.rule, config.seed = None, seed
    return jax.jit(functools.partial(init, prepare(config)))().params


def _kernel(state):
    return np.asarray(sparsejax.get_masks(state.opt_state)["Dense_0"]["kernel"])


def _assert_masked(state, dense, mask):
    """Two programs may draw weights that differ in the last bit."""
    kernel = np.asarray(state.params["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel, np.where(mask, dense, 0), rtol=1e-5)
    assert not kernel[~mask].any()


def _masks_by_hand(experiment, params, batches):
    dataset = experiment.dataset
    rows = np.stack([batch_indices(0, step, 1300, 32) for step in range(batches)])

    def loss(params, batch):
        images, labels = batch
        return mean_loss(experiment.model.apply({"params": params}, images), labels)

    examples = dataset.normalise(dataset.train.images[rows]), dataset.train.labels[rows]
    return at_initialization.snip(loss, params, examples, 0.8)["Dense_0"]["kernel"]


def test_the_masks_are_those_of_the_first_batches(pruned):
    dense = _dense(pruned)
    experiment, state = _state(pruned)
    expected = _masks_by_hand(experiment, dense, batches=2)
    np.testing.assert_array_equal(_kernel(state), expected)
    _assert_masked(state, dense["Dense_0"]["kernel"], expected)


def test_one_batch_is_what_the_rule_of_the_first_step_sees(pruned, tmp_path):
    _, state = _state(pruned, batches=1)
    pruned.rule = ConfigDict({"name": "snip", "sparsity": 0.8})
    pruned.transform.replace_step = True
    pruned.steps = pruned.log_every = pruned.eval_every = 1
    after_one = train(pruned, tmp_path, console=QUIET).state
    np.testing.assert_array_equal(_kernel(state), _kernel(after_one))
    _assert_masked(state, after_one.params["Dense_0"]["kernel"], _kernel(state))


def test_ablations(pruned):
    dense = _dense(pruned)["Dense_0"]["kernel"]
    _, state = _state(pruned)
    plain, found = _kernel(state), {}
    for ablation in ("shuffled", "reinitialized", "inverted"):
        _, state = _state(pruned, ablation=ablation)
        found[ablation] = _kernel(state)
        assert found[ablation].sum() == 128
        # What is trained are the weights of the seed, behind other masks.
        _assert_masked(state, dense, found[ablation])
    assert not np.any(found["inverted"] & plain)
    # Chance would let 0.2 × 128 = 26 weights meet; the blank pixels are the same in all.
    shared = {name: (mask & plain).sum() for name, mask in found.items()}
    assert shared["shuffled"] < 64 and 16 < shared["reinitialized"] < 128


@pytest.mark.parametrize("ablation", ["reinitialized", "shuffled"])
def test_what_is_drawn_hangs_on_the_seed_alone(ablation, pruned):
    kernels = []
    for seed in (0, 0, 1):
        pruned.seed = seed
        kernels.append(_kernel(_state(pruned, ablation=ablation)[1]))
    np.testing.assert_array_equal(*kernels[:2])
    assert np.any(kernels[0] != kernels[2])


def test_a_run_keeps_its_masks_and_continues_to_the_same_bits(pruned, tmp_path):
    whole = train(pruned, tmp_path / "whole", console=QUIET)
    stops = iter([False, True])
    stopped = train(pruned, tmp_path / "run", stop=lambda: next(stops), console=QUIET)
    assert stopped.summary is None
    result = train(pruned, tmp_path / "run", console=QUIET)
    assert digest(result.state) == digest(whole.state)
    np.testing.assert_array_equal(_kernel(result.state), _kernel(_state(pruned)[1]))
    assert [line["churn"] for line in result.history if line["kind"] == "validation"] == [0] * 3
    assert result.summary["sparsity"] == pytest.approx(0.8)
    assert result.summary["flops"]["training"] == 3 * result.summary["flops"]["sparse"]


def test_a_cohort_trains_seeds_one_after_the_other_and_sparsities_together(pruned, tmp_path):
    """The first batches hang on a seed that has to be known."""
    pruned.steps = pruned.eval_every = 4
    configs = [pruned.copy_and_resolve_references() for _ in range(3)]
    configs[1].rule.sparsity, configs[2].seed = 0.5, 1
    workdirs = [tmp_path / str(i) for i in range(3)]
    console = Console(file=io.StringIO(), width=200)
    summaries = train_cohort(configs, workdirs, console=console)
    assert [round(summary["sparsity"], 6) for summary in summaries] == [0.8, 0.5, 0.8]
    assert "2 runs are trained together" in console.file.getvalue()


def test_biases_may_compete(pruned):
    _, state = _state(pruned, prunable="prunable_with_biases")
    masks = sparsejax.get_masks(state.opt_state)["Dense_0"]
    assert not masks["bias"].any()  # they are 0, so they do not matter
    assert masks["kernel"].sum() == 130  # a fifth of 650


def test_running_statistics_and_dropout_are_those_of_training(cifar_directory, shallow, pruned):
    pruned.data = ConfigDict({"name": "cifar10", "validation": 20, "augment": True})
    pruned.model = ConfigDict({"name": "resnet20", "width": 2})
    pruned.batch_size = 8
    experiment = prepare(pruned, cifar_directory)
    assert jax.eval_shape(functools.partial(init, experiment)).batch_stats
    pruned.data = ConfigDict({"name": "digits"})
    pruned.model = ConfigDict({"name": "lenet300", "widths": (20,), "dropout": 0.5})
    with_, without = (_state(pruned)[1], _state(_without_dropout(pruned))[1])
    assert np.any(_kernel(with_) != _kernel(without))


def _without_dropout(config):
    config = config.copy_and_resolve_references()
    config.model.dropout = 0.0
    return config


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"batches": 0}, r"config\.rule\.batches: 0 is impossible; allowed: at least 1"),
        ({"ablation": "none"}, r"config\.rule: ablation: 'none' .* shuffled, reinitialized, inv"),
        ({"loss": 1}, r"snip has no such argument; allowed: sparsity, .*batches, ablation, seed"),
        ({"inverted": True}, r"snip has no such argument"),
        ({"sparsity": 1.0}, r"config\.rule\.sparsity: 1\.0 is impossible"),
        ({"structure": ConfigDict({"name": "nm", "n": 2, "m": 7})}, r"Dense_0/kernel"),
        ({"name": "at_initialization.snap"}, r"allowed: .*at_initialization\.\w+, "),
    ],
)
def test_what_is_wrong_is_refused(rule, message, pruned):
    with pytest.raises(UserError, match=message):
        _prepare(pruned, **rule)


def test_a_rule_without_a_run_has_no_masks():
    config = default()
    config.rule = ConfigDict({"name": "at_initialization.snip", "sparsity": 0.8})
    with pytest.raises(ValueError, match="need the model and the data of a run"):
        build.optimizer(config).init({"w": jnp.ones((2, 2))})
