"""The procedure that measures a network's sensitivity to pruning."""

import io
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import procedures
from experiments.errors import UserError
from experiments.report_data import collect
from experiments.train import evaluate, prepare, train
from tests.experiments.conftest import tiny_config

SPARSITIES = (0.0, 0.5, 1.0)


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _config() -> ConfigDict:
    tiny = tiny_config()
    tiny.rule = None
    tiny.model.widths = (16,)
    tiny.optimizer.learning_rate = 0.02
    tiny.procedure = ConfigDict({"name": "sensitivity", "sparsities": SPARSITIES})
    return tiny


@pytest.fixture
def config():
    return _config()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The summary of the procedure without interruption, and its folder."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return _run(_config(), workdir), workdir


def _run(config, workdir, **options):
    return procedures.run(config, workdir, console=_console(), **options)


def _stop_after(questions: int):
    asked = iter(range(1000))
    return lambda: next(asked) + 1 >= questions


def test_the_table_is_that_of_networks_pruned_by_hand(config, whole):
    summary, workdir = whole
    assert json.loads((workdir / "summary.json").read_text()) == json.loads(json.dumps(summary))
    table = {(p["layer"], p["sparsity"]): p for p in summary["sensitivity"]}
    layers = ("Dense_0/kernel", "Dense_1/kernel", None)
    assert list(table) == [(layer, s) for layer in layers for s in SPARSITIES]
    assert all(table[layer, 0.0]["accuracy"] == summary["test_accuracy"] for layer in layers)

    experiment = prepare(config)
    state = train(config, workdir / "dense", console=_console()).state
    score = jax.jit(lambda s: evaluate(experiment, s, experiment.dataset.test))
    for layer in layers[:2]:
        params = jax.tree.map(np.array, state.params)
        kernel = params[layer.removesuffix("/kernel")]["kernel"]
        kernel[abs(kernel) <= np.sort(abs(kernel).ravel())[kernel.size // 2 - 1]] = 0
        sums = score(state._replace(params=params))
        point = table[layer, 0.5]
        assert point["accuracy"] == int(sums["correct"]) / 297
        assert point["loss"] == pytest.approx(float(sums["loss"]) / 297)
    assert table[None, 1.0]["accuracy"] < 0.2 < summary["test_accuracy"]


def test_the_training_is_a_stage_with_what_a_single_run_leaves(config, whole, tmp_path):
    summary, workdir = whole
    alone = train(config, tmp_path / "alone", console=_console())
    stage = summary["stages"]["dense"]
    assert stage["kind"] == "dense"
    assert stage["test_accuracy"] == alone.summary["test_accuracy"]
    lines = (workdir / "dense" / "metrics.jsonl").read_text()
    assert lines == (tmp_path / "alone" / "metrics.jsonl").read_text()
    rows = collect(workdir)["runs"]
    assert [(row["name"], row["state"]) for row in rows] == [("run/dense", "finished")]


@pytest.mark.parametrize("questions", [2, 6, 8])
def test_a_stopped_procedure_continues_to_the_same_numbers(questions, config, whole, tmp_path):
    """Stopped while it trains, as it ends training, and between two measurements."""
    workdir = tmp_path / "run"
    assert _run(config, workdir, stop=_stop_after(questions)) is None
    assert not (workdir / "summary.json").exists()
    summary = _run(config, workdir)
    assert summary["sensitivity"] == whole[0]["sensitivity"]
    assert summary["test_loss"] == whole[0]["test_loss"]


def test_a_finished_procedure_is_not_repeated(config, whole, monkeypatch):
    summary, workdir = whole
    monkeypatch.setattr("experiments.sensitivity.fit", None)
    console = _console()
    again = procedures.run(config, workdir, console=console)
    assert again == json.loads(json.dumps(summary))
    assert "This run is finished" in console.file.getvalue()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sparsities", (0.5, 1.5), r"config\.procedure\.sparsities: \(0\.5, 1\.5\) is impossible"),
        ("sparsities", ("much",), r"config\.procedure\.sparsities: .* allowed: numbers in"),
        ("distribution", "ekr", r"config\.procedure\.distribution\.name: 'ekr' is unknown"),
        ("steps", 3, r"config\.procedure\.steps: sensitivity has no such argument"),
    ],
)
def test_what_is_wrong_is_refused(key, value, message, config, tmp_path):
    config.procedure[key] = value
    with pytest.raises(UserError, match=message):
        _run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rule_is_refused(config, tmp_path):
    config.rule = ConfigDict({"name": "static", "sparsity": 0.5})
    with pytest.raises(UserError, match=r"config\.rule: .* impossible with the procedure sensit"):
        _run(config, tmp_path)
