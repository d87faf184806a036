"""The experiments of Han et al. 2015: what their rules keep, and what their figures draw."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import sparsejax
from experiments import build, grid
from experiments.config import check
from experiments.errors import UserError
from experiments.pruning_figures import against_sparsity
from experiments.published import weights_kept_thousands
from experiments.runs import Run

KEPT = {
    "mnist_lenet300_han2015": {"Dense_0": 18_816, "Dense_1": 2_700, "Dense_2": 260},
    "mnist_lenet5_han2015": {"Conv_0": 330, "Conv_1": 3_000, "Dense_0": 32_000, "Dense_1": 950},
}


@pytest.fixture(autouse=True)
def _configs_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def _config(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", KEPT)
def test_the_rounds_end_with_the_papers_weights(name):
    """The rule alone, without training: its masks at each step at which it prunes."""
    config = _config(name)
    model = build.model(config, 10)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    rule = build.make(config.rule, build.RULE, "config.rule")
    state, update = rule.init(params), jax.jit(rule.update)
    when, rounds, before = config.rule.when, [], None
    for step in range(when.begin, when.end + 1, when.period):
        _, state = update(params, state._replace(count=jnp.int32(step)), params)
        kept = sparsejax.counts(params, sparsejax.get_masks(state))
        rounds.append({path.split("/")[0]: layer.kept for path, layer in kept.items()})
        assert before is None or all(rounds[-1][k] < before[k] for k in before)
        before = rounds[-1]
    assert len(rounds) == 4
    assert rounds[-1] == KEPT[name]
    assert when.end < config.steps
    summary = {"layers": {path: {"kept": layer.kept} for path, layer in kept.items()}}
    summary["layers"]["Dense_0/bias"] = {"kept": 10_000}
    published = importlib.import_module(f"configs.{name}").PUBLISHED
    row = next(row for row in published if row.measure is weights_kept_thousands)
    assert row.measure(summary) == row.value
    assert row.tolerance == 0


def test_the_dense_reference_differs_in_the_rule_alone():
    for name in KEPT:
        module = importlib.import_module(f"configs.{name}")
        reference = next(row for row in module.PUBLISHED if "reference" in row.row)
        config = module.get_config()
        dense = grid.override(config, reference.overrides)
        assert dense.rule is None
        assert {**dense.to_dict(), "rule": 0} == {**config.to_dict(), "rule": 0}


def test_every_run_of_the_trade_off_can_be_built():
    module = importlib.import_module("configs.mnist_lenet300_tradeoff")
    sweep = module.sweep()
    assert len({str(run) for run in sweep}) == len(sweep) == 40
    for overrides in sweep:
        config = grid.override(module.get_config(), overrides)
        check(config)
        build.optimizer(config)
        assert config.rule is None or config.rule.distribution == "global_"


def _run(config, **summary):
    return Run(Path(), config.to_dict(), [], summary, None)


def test_the_trade_off_is_drawn_against_the_dense_network():
    module = importlib.import_module("configs.mnist_lenet300_tradeoff")
    runs = []
    for overrides in module.sweep():
        config = grid.override(module.get_config(), overrides)
        l1, seed = config.l1 > 0, config.seed
        if config.rule is None:
            points = [
                {"layer": layer, "sparsity": s, "accuracy": 0.98 - 0.01 * l1 - 0.5 * s**4}
                for layer in ("Dense_0/kernel", None)
                for s in config.procedure.sparsities
            ]
            runs.append(_run(config, sensitivity=points))
        else:
            amount = config.rule.sparsity
            rounds = not isinstance(amount, float)
            s = amount.final if rounds else amount
            accuracy = 0.98 - 0.01 * l1 - 0.02 * s**4 * (1 - 0.5 * rounds) + 0.001 * seed
            runs.append(_run(config, sparsity=s + 1e-9, test_accuracy=accuracy))
    (figure,) = (draw(runs) for draw in module.FIGURES.values())
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == [
        "L2, not retrained",
        "L1, not retrained",
        "L2, retrained",
        "L1, retrained",
        "L2, pruned and retrained in rounds",
    ]
    assert lines["L1, not retrained"].get_ydata()[0] == pytest.approx(-1)
    assert lines["L2, not retrained"].get_ydata()[0] == 0
    x, y = lines["L2, retrained"].get_data()
    np.testing.assert_allclose(x, [0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
    np.testing.assert_allclose(y, 0.05 - 2 * x**4)
    assert lines["L2, not retrained"].get_linestyle() == "--"
    assert ax.get_ylim()[0] == -4.5


@pytest.mark.parametrize("name", ["mnist_lenet300_sensitivity", "mnist_lenet5_sensitivity"])
def test_the_sensitivity_is_drawn_layer_by_layer(name):
    module = importlib.import_module(f"configs.{name}")
    config = grid.override(module.get_config(), module.sweep()[0])
    points = [
        {"layer": layer, "sparsity": s, "accuracy": accuracy - 0.2 * s}
        for layer, accuracy in (("Dense_0/kernel", 0.98), (None, 0.9))
        for s in (0.0, 0.5)
    ]
    (figure,) = (draw([_run(config, sensitivity=points)] * 2) for draw in module.FIGURES.values())
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["Dense_0"], [98, 88])
    np.testing.assert_allclose(lines["all layers"], [90, 80])


def test_a_figure_shows_means_and_standard_deviations():
    figure = against_sparsity("a", "b", {"x": {0.5: [1.0, 3.0], 0.0: [4.0]}})
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0, 0.5], [4, 2]])
    (band,) = ax.collections
    corners = {tuple(np.round(v, 4)) for v in band.get_paths()[0].vertices}
    assert corners == {(0.0, 4.0), (0.5, round(2 + 2**0.5, 4)), (0.5, round(2 - 2**0.5, 4))}
    with pytest.raises(ValueError, match="1 to 7 series; got 8"):
        against_sparsity("a", "b", {str(i): {0.5: [1.0]} for i in range(8)})


def test_the_l1_term_pulls_every_parameter_towards_zero(tiny):
    tiny.rule = None
    tiny.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.5})
    params = {"w": jnp.array([2.0, -3.0, 0.0])}
    grads = {"w": jnp.array([1.0, 1.0, 1.0])}

    def updates():
        tx = build.optimizer(tiny)
        return tx.update(grads, tx.init(params), params)[0]["w"].tolist()

    assert updates() == [-0.5, -0.5, -0.5]
    tiny.l1 = 0.25
    assert updates() == [-0.625, -0.375, -0.5]
    tiny.weight_decay = 0.125
    assert updates() == [-0.75, -0.1875, -0.5]


def test_sparsities_of_each_layer_come_from_the_configuration(tiny):
    cubic = {"name": "cubic", "begin": 0, "end": 1, "final": 0.5}
    tiny.rule = ConfigDict({"name": "magnitude_pruning"})
    tiny.rule.sparsity = ConfigDict({"Dense_0/*": 0.75, "Dense_1/kernel": cubic})
    tiny.rule.when = ConfigDict({"name": "every", "period": 1})
    params = {f"Dense_{i}": {"kernel": jnp.ones((4, 4))} for i in range(3)}
    rule = build.make(tiny.rule, build.RULE, "config.rule")
    state = rule.init(params)
    for last in (16, 8):
        _, state = rule.update(params, state, params)
        kept = sparsejax.counts(params, sparsejax.get_masks(state)).values()
        assert [layer.kept for layer in kept] == [4, last, 16]


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (
            {"Dense_0/*": {"name": "cubical"}},
            r"config\.rule\.sparsity\.Dense_0/\*\.name: 'cubical'",
        ),
        (
            {"Dense_0/*": {"name": "cubic"}},
            r"config\.rule\.sparsity\.Dense_0/\*\.begin: cubic needs",
        ),
    ],
)
def test_a_wrong_schedule_of_a_layer_is_named(sparsity, message, tiny):
    tiny.rule = ConfigDict({"name": "magnitude_pruning", "sparsity": sparsity})
    with pytest.raises(UserError, match=message):
        build.optimizer(tiny)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        ({"Dense_7/*": 0.5}, "the pattern 'Dense_7/.*' matches no prunable leaf"),
        ({"Dense_0/*": 1.5}, "the sparsity of Dense_0/kernel must lie between 0 and 1, got 1.5"),
    ],
)
def test_an_impossible_sparsity_of_a_layer_is_refused(sparsity, message):
    params = {"Dense_0": {"kernel": jnp.ones((4, 4))}}
    with pytest.raises(ValueError, match=message):
        sparsejax.magnitude_pruning(sparsity).init(params)
