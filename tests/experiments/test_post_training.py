"""The procedure that prunes a trained network by several methods."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import procedures
from experiments.config import default
from experiments.errors import UserError
from experiments.post_training import METHODS
from experiments.train import evaluate, means, prepare, train
from tests.experiments.conftest import tiny_config


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _config() -> ConfigDict:
    tiny = tiny_config()
    tiny.rule = None
    tiny.model.widths = (16,)
    tiny.optimizer.learning_rate = 0.02
    tiny.procedure = ConfigDict({"name": "post_training"})
    tiny.procedure.sparsities, tiny.procedure.calibration = (0.75,), 32
    return tiny


@pytest.fixture
def config():
    return _config()


def _run(config, workdir, **options):
    return procedures.run(config, workdir, console=_console(), **options)


def _stop_after(questions: int):
    asked = iter(range(1000))
    return lambda: next(asked) + 1 >= questions


def test_the_table_is_that_of_networks_pruned_by_hand(config, tmp_path):
    config.procedure.patterns = ("2:4",)
    console = _console()
    summary = procedures.run(config, tmp_path / "run", console=console)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(
        json.dumps(summary)
    )
    rows = {(row["target"], row["method"]): row for row in summary["post_training"]}
    assert list(rows) == [(target, method) for target in ("75 %", "2:4") for method in METHODS]
    for (target, _), row in rows.items():
        assert row["sparsity"] == {"75 %": 0.75, "2:4": 0.5}[target]
        assert row["prune_seconds"] > 0

    experiment = prepare(config)
    state = train(config, tmp_path / "run" / "dense", console=_console()).state
    kernels = {name: np.array(state.params[name]["kernel"]) for name in state.params}
    images = experiment.dataset.normalise(experiment.dataset.train.images)
    first = np.random.default_rng([0, 0]).permutation(len(images))[:32]  # in the order of training
    x = np.asarray(images[first]).reshape(32, -1)
    for method in ("magnitude", "wanda"):
        inputs, pruned = x, {}
        for name, kernel in kernels.items():
            norms = np.sqrt((inputs**2).sum(0))[:, None]
            scores = abs(kernel) * (norms if method == "wanda" else 1)
            axis = 0 if method == "wanda" else None
            n = scores.size if axis is None else len(scores)
            limit = np.sort(scores, axis=axis)[n * 3 // 4]
            pruned[name] = dict(state.params[name], kernel=np.where(scores < limit, 0, kernel))
            inputs = np.maximum(inputs @ pruned[name]["kernel"] + pruned[name]["bias"], 0)
        score = jax.jit(lambda s: evaluate(experiment, s, experiment.dataset.test))
        sums = score(state._replace(params=pruned))
        expected = means(experiment.dataset, [sums], 297)
        row = rows["75 %", method]
        assert row["accuracy"] == expected["accuracy"] != summary["test_accuracy"]
        assert row["loss"] == pytest.approx(expected["loss"])
    text = console.file.getvalue()
    assert f"{100 * rows['2:4', 'sparsegpt']['accuracy']:.3f}" in text
    assert "Accuracy on the test examples" in text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The summary of two methods, without interruption."""
    config = _config()
    config.procedure.methods = ("magnitude", "wanda")
    return _run(config, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("questions", [2, 7])
def test_a_stopped_procedure_continues_to_the_same_numbers(questions, config, whole, tmp_path):
    """Stopped while it trains, and between two methods."""
    config.procedure.methods = ("magnitude", "wanda")
    workdir = tmp_path / "run"
    assert _run(config, workdir, stop=_stop_after(questions)) is None
    assert not (workdir / "summary.json").exists()
    summary = _run(config, workdir)
    for ours, theirs in zip(summary["post_training"], whole["post_training"], strict=True):
        assert ours | {"prune_seconds": 0} == theirs | {"prune_seconds": 0}
    again = _run(config, workdir)
    assert again == json.loads(json.dumps(summary))


def test_texts_are_measured_character_by_character(text_directory, tmp_path):
    """And their perplexity is recorded wherever their loss is."""
    config = default()
    config.data = ConfigDict({"name": "tinyshakespeare", "length": 15, "validation": 20})
    config.model = ConfigDict({"name": "text_transformer", "layers": 1, "width": 8, "heads": 2})
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 2, 1, 2
    result = train(config, tmp_path, text_directory, console=_console())
    for line in result.history:
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))
    assert result.summary["test_perplexity"] == pytest.approx(np.exp(result.summary["test_loss"]))

    experiment = prepare(config, text_directory)
    test = experiment.dataset.test
    logits = jax.jit(experiment.model.apply)({"params": result.state.params}, test.images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, test.labels).mean()
    assert result.summary["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    accuracy = float(jnp.mean(logits.argmax(-1) == test.labels))
    assert result.summary["test_accuracy"] == pytest.approx(accuracy)
    assert 0 < result.history[0]["accuracy"] < 0.2  # of the batch's characters
    assert result.summary["flops"]["dense"] > 2 * 12 * 8 * 8 * 15


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sparsities", (0.5, 1.5), r"config\.procedure\.sparsities: \(0\.5, 1\.5\) is impossible"),
        ("patterns", ("2-4",), r"config\.procedure\.patterns: '2-4' is impossible; allowed: N:M"),
        ("patterns", ("5:4",), r"config\.procedure\.patterns: '5:4' is impossible"),
        ("methods", ("wonda",), r"config\.procedure\.methods: 'wonda' .* magnitude, wanda, dsnot"),
        ("calibration", 1301, r"config\.procedure\.calibration: 1301 .* 1 to the 1300 training"),
        ("sparsities", (), r"config\.procedure: give sparsities or patterns"),
        ("steps", 3, r"config\.procedure\.steps: post_training has no such argument"),
    ],
)
def test_what_is_wrong_is_refused(key, value, message, config, tmp_path):
    config.procedure[key] = value
    with pytest.raises(UserError, match=message):
        _run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rule_is_refused(config, tmp_path):
    config.rule = ConfigDict({"name": "static", "sparsity": 0.5})
    with pytest.raises(UserError, match=r"config\.rule: .* impossible with the procedure post_tr"):
        _run(config, tmp_path)
