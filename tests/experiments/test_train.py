"""Training runs in this process: results, files, and that an interruption leaves no trace."""

import copy
import functools
import importlib.util
import io
import itertools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import procedures
from experiments.checkpoint import digest
from experiments.data import batch_indices
from experiments.errors import UserError
from experiments.train import init, prepare, train, train_steps
from tests.experiments.conftest import tiny_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*_*.py"))


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _text(console: Console) -> str:
    return console.file.getvalue()


def _steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny run without interruption, and its folder."""
    workdir = tmp_path_factory.mktemp("trained") / "whole"
    return train(tiny_config(), workdir, console=_console()), workdir


@pytest.fixture
def whole(trained, tmp_path):
    """The same run, in a folder of the test's own."""
    result, workdir = trained
    shutil.copytree(workdir, tmp_path / "whole")
    return result._replace(history=copy.deepcopy(result.history))


def _stop_after(dispatches: int):
    asked = iter(range(1000))
    return lambda: next(asked) + 1 >= dispatches


def _assert_same(result, workdir, whole, whole_workdir):
    assert digest(result.state) == digest(whole.state)
    for name in ("metrics.jsonl", "config.json"):
        assert (workdir / name).read_bytes() == (whole_workdir / name).read_bytes()
    times = {"seconds", "steps_per_second"}
    assert {k: v for k, v in result.summary.items() if k not in times} == {
        k: v for k, v in whole.summary.items() if k not in times
    }


def _config(path) -> ConfigDict:
    """A configuration with its rule, and a network and data that take moments to compile."""
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert "python -m experiments.main --config configs/" + path.name in module.__doc__
    config.data.validation = 60 if config.data.name == "mnist" else 20  # as many as for the test
    if config.data.name == "generated":
        config.data.train, config.data.height, config.data.width = 20, 32, 32
        config.model.blocks, config.model.width = (1, 1, 1), 16
    if config.model.name == "text_transformer":
        config.model.layers, config.model.width, config.model.heads = 1, 16, 2
    if config.model.name == "lenet300" and "Dense_2" not in str(config):  # which it would lose
        config.model.widths = (16,)
    config.batch_size, config.steps, config.log_every, config.eval_every = 8, 2, 1, 2
    if config.rule is not None and "period" in config.rule:
        config.rule.period = 1
    return config


# One run of each kind: what it leaves is the same for all of a kind, and the rules' own work is
# seen in the state after two steps.
KINDS = ("dense", "rigl", "ste", "cram", "str", "snip_before_training")
WHOLE = {f"mnist_lenet300_{name}" for name in KINDS}


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        pytest.param(
            path,
            whole,
            id=f"{path.stem}{'-whole' * whole}",
            marks=pytest.mark.full if whole != (path.stem in WHOLE) else (),
        )
        for path in CONFIGS
        for whole in (False, True)
    ],
)
def test_every_config_takes_two_steps(
    path, whole, tmp_path, idx_directory, cifar_directory, text_directory, shallow, monkeypatch
):
    monkeypatch.syspath_prepend(str(ROOT))
    config = _config(path)
    directories = {"cifar10": cifar_directory, "tinyshakespeare": text_directory}
    data_dir = directories.get(config.data.name) or idx_directory()
    if config.procedure is not None:
        _assert_procedure_takes_two_steps(config, tmp_path / "run", data_dir)
        return
    if whole:
        result = train(config, tmp_path / "run", data_dir, console=_console())
        _assert_run_of_two_steps(config, result)
        state = result.state
    else:
        state = _after_two_steps(prepare(config, data_dir), config)

    assert int(state.step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    if config.rule is None or config.transform.name == "reparameterize":
        return
    counts = sparsejax.counts(state.params, sparsejax.get_masks(state.opt_state)).values()
    sparsity = config.rule.get("sparsity")
    when = config.rule.get("when") or {}
    if when.get("at", when.get("begin", 0)) >= 2:  # the first pruning, after dense training
        sparsity = 0.0
    if isinstance(sparsity, float):  # a schedule may end far behind two steps
        kept, total = (sum(getattr(c, field) for c in counts) for field in ("kept", "total"))
        assert 1 - kept / total == pytest.approx(sparsity, abs=0.005)
    if config.transform.name == "sparsify":
        sparse = sparsejax.apply_masks(state.params, sparsejax.get_masks(state.opt_state))
        assert digest(sparse) == digest(state.params)


def _after_two_steps(experiment, config):
    """The state alone: without evaluations, metrics and checkpoints."""
    state = jax.jit(functools.partial(init, experiment))()
    step = jax.jit(functools.partial(train_steps, experiment))
    for number in range(2):
        rows = batch_indices(config.seed, number, len(experiment.dataset.train.labels), 8)
        state, sums = step(state, experiment.dataset.train, rows[None])
        assert np.isfinite(sums["loss"])
    return state


def _assert_run_of_two_steps(config, result):
    assert [(line["step"], line["kind"]) for line in result.history] == [
        (1, "train"), (2, "train"), (2, "validation")
    ]  # fmt: skip
    if config.rule is None:
        assert result.summary["kept"] == result.summary["total"]
        return
    if config.transform.name == "reparameterize":
        layers = result.summary["layers"].values()
        assert sum(layer["kept"] for layer in layers) == result.summary["kept"]
        return
    counts = sparsejax.counts(result.state.params, sparsejax.get_masks(result.state.opt_state))
    for path, layer in counts.items():
        assert result.summary["layers"][path] == {"kept": layer.kept, "total": layer.total}
    kept, total = (sum(getattr(c, f) for c in counts.values()) for f in ("kept", "total"))
    assert result.summary["sparsity"] == 1 - kept / total


def _assert_procedure_takes_two_steps(config, workdir, data_dir):
    """In each stage; there are as few as possible, since each is compiled for itself."""
    fewest = {"rounds": 1, "controls": (), "sparsities": (0.5,)}
    config.procedure.update({key: fewest[key] for key in fewest if key in config.procedure})
    if config.procedure.name == "post_training":  # its own tests have the others
        config.procedure.update({"methods": ("sparsegpt",), "patterns": (), "calibration": 4})
    summary = procedures.run(config, workdir, data_dir, console=_console())
    assert json.loads(json.dumps(summary)) == json.loads((workdir / "summary.json").read_text())
    assert summary["stages"]
    for name, stage in summary["stages"].items():
        assert stage["step"] == 2
        assert 0 <= stage["test_accuracy"] <= 1
        lines = [json.loads(x) for x in (workdir / name / "metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line["kind"]) for line in lines][-1] == (2, "validation")
        assert all(np.isfinite(line["loss"]) for line in lines)


def test_a_run_learns_and_leaves_its_files(tmp_path, tiny):
    tiny.steps, tiny.log_every, tiny.eval_every = 90, 10, 40
    tiny.optimizer.learning_rate = 0.02
    console = _console()
    result = train(tiny, tmp_path, console=console)
    assert result.summary["test_accuracy"] > 0.5
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert [line["step"] for line in result.history if line["kind"] == "validation"] == [40, 80, 90]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(
        json.dumps(result.summary)
    )
    assert json.loads((tmp_path / "config.json").read_text())["rule"]["sparsity"] == 0.8
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert len(names) == 2
    assert "events.out.tfevents.hparams" in names
    assert result.summary["kept"] == 128 + 10  # 20 % of 640, and the biases
    assert "validation accuracy" in _text(console)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_summary_counts_what_is_not_zero(whole):
    layers = whole.summary["layers"]
    flat = jax.tree_util.tree_leaves_with_path(whole.state.params)
    sizes = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in flat}
    assert layers.keys() == sizes.keys()
    for path, leaf in sizes.items():
        assert layers[path]["total"] == leaf.size
        assert np.count_nonzero(leaf) <= layers[path]["kept"] <= leaf.size
    masked = [path for path in layers if path.endswith("kernel")]
    kept, total = (sum(layers[path][key] for path in masked) for key in ("kept", "total"))
    assert whole.summary["sparsity"] == 1 - kept / total == pytest.approx(0.8, abs=1e-3)


def test_evaluations_record_densities_and_churn(tmp_path, tiny):
    """Against the masks of a second run of each length, which ends at that evaluation."""
    result = train(tiny, tmp_path / "run", console=_console())
    lines = [line for line in result.history if line["kind"] == "validation"]
    experiment = prepare(tiny)
    masks = [sparsejax.get_masks(init(experiment).opt_state)["Dense_0"]["kernel"]]
    for steps in (4, 8, 12):
        tiny.steps = steps
        state = train(tiny, tmp_path / f"{steps}", console=_console()).state
        masks.append(sparsejax.get_masks(state.opt_state)["Dense_0"]["kernel"])
    for line, (before, after) in zip(
        lines, itertools.pairwise(map(np.asarray, masks)), strict=True
    ):
        assert line["churn"] == (before ^ after).sum() / (before | after).sum()
        assert line["density"] == {"Dense_0/kernel": after.mean()} == {"Dense_0/kernel": 0.2}
    assert lines[0]["churn"] > 0
    assert lines[2]["churn"] == 0  # the masks do not move any more after step 9, nor at it


def test_evaluations_record_what_was_explored(tmp_path, tiny):
    tiny.rule.name = "rigl_itop"
    result = train(tiny, tmp_path, console=_console())
    lines = [line for line in result.history if line["kind"] == "validation"]
    [ever] = jax.tree.leaves(
        sparsejax.masks.find_in_state(result.state.opt_state, "explored")[0]["Dense_0"]["kernel"]
    )
    assert lines[-1]["explored"] == pytest.approx(float(ever.mean()))
    assert 0.2 < lines[0]["explored"] < lines[-1]["explored"] < 1


def test_a_dense_network_has_densities_and_no_churn(tmp_path, tiny):
    tiny.rule = None
    result = train(tiny, tmp_path, console=_console())
    line = result.history[-1]
    assert line["density"] == {"Dense_0/kernel": 1.0}
    assert "churn" not in line
    assert result.summary["flops"] == {"dense": 1280, "sparse": 1280, "training": 3 * 1280}
    assert result.summary["bytes"] == {"dense": 2600, "sparse": 2600}


def test_the_summary_holds_the_costs(whole):
    assert whole.summary["flops"]["dense"] == 2 * 64 * 10
    assert whole.summary["flops"]["sparse"] == 2 * 128
    training = (3 * 256 * 3 + 2 * 256 + 1280) / 4  # the masks move every third step
    assert whole.summary["flops"]["training"] == pytest.approx(training)
    assert whole.summary["bytes"] == {"dense": 4 * 650, "sparse": 640 // 8 + 4 * (128 + 10)}


def test_the_first_step_is_that_of_a_plain_loop(tiny, tmp_path):
    """One step of the runner against the same step written out."""
    tiny.steps = tiny.log_every = tiny.eval_every = 1
    result = train(tiny, tmp_path, console=_console())
    experiment = prepare(tiny)
    state = init(experiment)
    order = np.random.default_rng([0, 0]).permutation(1300)[:32]
    images = experiment.dataset.normalise(experiment.dataset.train.images[order])
    labels = experiment.dataset.train.labels[order]

    def loss(params):
        logits = experiment.model.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    updates, _ = experiment.optimizer.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        result.state.params,
        expected,
    )
    assert result.history[0]["loss"] == pytest.approx(float(value), rel=1e-5)


def test_only_straight_through_weights_begin_dense(tiny):
    for rule, transform in (("static", "sparsify"), ("ste_magnitude", "chain")):
        tiny.rule = ConfigDict({"name": rule, "sparsity": 0.8})
        tiny.transform.name = transform
        state = init(prepare(tiny))
        kept = 128 if rule == "static" else 640
        assert np.count_nonzero(state.params["Dense_0"]["kernel"]) == kept


def test_seeds_change_weights_masks_and_batches(tiny, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny.seed = seed
        runs.append(train(tiny, tmp_path / name, console=_console()))
    assert digest(runs[0].state) == digest(runs[1].state) != digest(runs[2].state)
    a, c = (sparsejax.get_masks(init(prepare_).opt_state)["Dense_0"]["kernel"] for prepare_ in (
        prepare(ConfigDict(tiny.to_dict() | {"seed": seed})) for seed in (0, 1)
    ))  # fmt: skip
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("dispatches", [1, 4])
def test_a_stopped_run_continues_to_the_same_bits(dispatches, tmp_path, tiny, whole):
    workdir, console = tmp_path / "run", _console()
    stopped = train(tiny, workdir, stop=_stop_after(dispatches), console=console)
    assert int(stopped.state.step) == 2 * dispatches
    assert stopped.summary is None
    assert _steps(workdir)[-1] == 2 * dispatches
    assert f"Stopped after step {2 * dispatches}" in _text(console)
    result = train(tiny, workdir, console=console)
    assert f"Continues after step {2 * dispatches}" in _text(console)
    _assert_same(result, workdir, whole, tmp_path / "whole")


def test_lines_written_after_the_last_checkpoint_are_written_again_once(tmp_path, tiny, whole):
    workdir = tmp_path / "run"
    train(tiny, workdir, stop=_stop_after(2), console=_console())
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "kind": "train", "loss": 0.0}\n{"step": 8, "kind": "tr')
    result = train(tiny, workdir, console=_console())
    _assert_same(result, workdir, whole, tmp_path / "whole")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_latest_checkpoint_is_reported_and_the_one_before_used(tmp_path, tiny, whole):
    workdir, console = tmp_path / "run", _console()
    train(tiny, workdir, stop=_stop_after(5), console=_console())
    assert _steps(workdir)[-2:] == [8, 10]
    for path in (workdir / "checkpoints" / "10" / "state").rglob("d/*"):
        path.write_bytes(b"\0" * path.stat().st_size)
    result = train(tiny, workdir, console=console)
    assert "Continues after step 8" in _text(console)
    _assert_same(result, workdir, whole, tmp_path / "whole")


def test_a_run_killed_before_its_summary_only_evaluates_again(tmp_path, tiny, whole):
    workdir = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", workdir)
    (workdir / "summary.json").unlink()
    result = train(tiny, workdir, console=_console())
    _assert_same(result, workdir, whole, tmp_path / "whole")


def test_a_finished_run_says_so_and_does_not_train(tmp_path, tiny, whole, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    monkeypatch.setattr("experiments.train.train_steps", None)
    console = _console()
    result = train(tiny, tmp_path / "whole", console=console)
    assert "This run is finished" in _text(console)
    assert digest(result.state) == digest(whole.state)
    assert result.history == whole.history
    assert result.summary == json.loads(json.dumps(whole.summary))
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    assert before == after


def test_a_directory_of_another_config_is_refused(tmp_path, tiny, whole):
    tiny.rule.sparsity = 0.5
    with pytest.raises(UserError, match=r"config\.rule\.sparsity: 0\.8 there, 0\.5 now"):
        train(tiny, tmp_path / "whole", console=_console())


def test_how_steps_are_dispatched_changes_no_line(tmp_path, tiny, whole):
    tiny.steps_per_dispatch = 1
    result = train(tiny, tmp_path / "one", console=_console())
    for one, many in zip(result.history, whole.history, strict=True):
        assert one["loss"] == pytest.approx(many.pop("loss"), rel=1e-5)
        assert one | many == one


def test_the_last_dispatch_may_be_shorter(tmp_path, tiny):
    tiny.steps = 11
    result = train(tiny, tmp_path, console=_console())
    assert int(result.state.step) == 11
    assert [line["step"] for line in result.history if line["kind"] == "train"][-2:] == [10, 11]
    assert result.history[-1]["kind"] == "validation"


def test_a_terminal_sees_a_progress_bar(tmp_path, tiny):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    train(tiny, tmp_path, console=console)
    assert "training" in _text(console)
    assert "12/12" in _text(console)


def test_batch_statistics_are_trained_and_saved(tmp_path, cifar_directory, shallow, tiny):
    tiny.data = ConfigDict({"name": "cifar10", "validation": 20, "augment": True})
    tiny.model = ConfigDict({"name": "resnet20", "width": 2})
    tiny.rule = None
    tiny.batch_size, tiny.steps, tiny.log_every, tiny.eval_every = 8, 2, 1, 2
    trained = train(tiny, tmp_path, cifar_directory, console=_console())
    stats = jax.tree.leaves(trained.state.batch_stats)
    assert stats
    assert not any(np.all(leaf == 0) or np.all(leaf == 1) for leaf in stats)  # as they begin
    restored = train(tiny, tmp_path, cifar_directory, console=_console())
    assert digest(restored.state) == digest(trained.state)
