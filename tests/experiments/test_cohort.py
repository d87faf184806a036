"""Cohorts: every run leaves what it leaves alone, whatever the others do.

Measured on x86-64 CPUs: within the 12 steps here the losses of a cohort differ from those of its
runs alone by at most 1.1e-7 of their value, one unit in the last place; everything that is counted
(accuracies, densities, churn, masks) is the same. The tests allow 1e-5.
"""

import io
import json
import math
import shutil
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import build, cohort
from experiments.checkpoint import Checkpoints, digest
from experiments.cohort import Cohort, Programs, groups, train_cohort
from experiments.errors import UserError
from experiments.grid import override
from experiments.train import Result, train

TOLERANCE = 1e-5  # of a loss, relative
TIMES = ("seconds", "steps_per_second")


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _state(workdir, template):
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore_latest(template)
    checkpoints.close()
    return restored.state


def _assert_like_alone(workdir, alone: Result, alone_workdir) -> None:
    assert (workdir / "config.json").read_bytes() == (alone_workdir / "config.json").read_bytes()
    ours, theirs = _lines(workdir), _lines(alone_workdir)
    for our, their in zip(ours, theirs, strict=True):
        assert our.pop("loss") == pytest.approx(their.pop("loss"), rel=TOLERANCE)
        assert our == their
    ours, theirs = (json.loads((d / "summary.json").read_text()) for d in (workdir, alone_workdir))
    assert ours.keys() == theirs.keys()
    assert all(ours.pop(key) > 0 and theirs.pop(key) > 0 for key in TIMES)
    for results in ("best", None):
        our, their = (s if results is None else s.pop(results) for s in (ours, theirs))
        assert our.pop("test_loss") == pytest.approx(their.pop("test_loss"), rel=TOLERANCE)
        assert our == their
    assert {p.name for p in (workdir / "tensorboard").iterdir()} >= {"events.out.tfevents.hparams"}
    assert {p.name for p in workdir.iterdir()} == {p.name for p in alone_workdir.iterdir()}
    state = _state(workdir, alone.state)  # in the format of a single run
    for our, their in zip(jax.tree.leaves(state), jax.tree.leaves(alone.state), strict=True):
        if jnp.issubdtype(their.dtype, jnp.floating):
            np.testing.assert_allclose(our, their, rtol=1e-3, atol=1e-6)
        else:
            assert digest(our) == digest(their)


@pytest.fixture(scope="module")
def configs():
    """Three runs that differ in all kinds of numbers; the last one's weights become NaN."""
    config = build_tiny()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 3, "end": 9})
    config.rule.drop_fraction = 0.3
    schedule = {"name": "cosine_decay_schedule", "init_value": 0.01, "decay_steps": 12}
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": schedule})
    other = {"seed": 2**32 - 1, "rule.sparsity": 0.9, "rule.drop_fraction": 0.5}
    return [
        config,
        override(config, other | {"optimizer.learning_rate.init_value": 0.02}),
        override(config, {"optimizer.learning_rate.init_value": 1e38}),
    ]


def build_tiny() -> ConfigDict:
    from experiments.config import default

    config = default()
    config.model.widths = ()
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 12, 2, 4
    return config


class _Whole(NamedTuple):
    workdirs: list
    summaries: list
    traces: dict


@pytest.fixture(scope="module")
def whole(configs, tmp_path_factory):
    """The cohort without interruption."""
    workdirs = [tmp_path_factory.mktemp("whole") / str(i) for i in range(3)]
    traces: dict[str, int] = {}

    def counted(function):
        def traced(*args):
            traces[function.__name__] = traces.get(function.__name__, 0) + 1
            return function(*args)

        return traced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "train_steps", counted(cohort.train_steps))
        patch.setattr(cohort, "evaluate", counted(cohort.evaluate))
        summaries = train_cohort(configs, workdirs, console=_console())
    return _Whole(workdirs, summaries, traces)


@pytest.mark.parametrize("i", [0, 1])
def test_each_run_leaves_what_it_leaves_alone(i, configs, whole, tmp_path):
    alone = train(configs[i], tmp_path, console=_console())
    _assert_like_alone(whole.workdirs[i], alone, tmp_path)
    summary = json.loads(json.dumps(whole.summaries[i]))
    assert summary == json.loads((whole.workdirs[i] / "summary.json").read_text())
    masks = sparsejax.get_masks(_state(whole.workdirs[i], alone.state).opt_state)
    assert digest(masks) == digest(sparsejax.get_masks(alone.state.opt_state))


def test_a_run_that_diverges_keeps_it_to_itself(whole):
    lost = [
        [math.isnan(line["loss"]) for line in _lines(workdir)][-1] for workdir in whole.workdirs
    ]
    assert lost == [False, False, True]


def test_a_cohort_is_compiled_once(whole):
    # One program to train, and one each for the validation and the test examples.
    assert whole.traces == {"train_steps": 1, "evaluate": 2}


def test_finished_runs_are_left_alone(configs, whole, monkeypatch):
    files = {p: p.stat().st_mtime_ns for d in whole.workdirs for p in d.rglob("*") if p.is_file()}
    monkeypatch.setattr(cohort, "_train", None)
    monkeypatch.setattr(cohort.procedures, "run", None)
    again = train_cohort(configs, whole.workdirs, console=_console())
    written = [json.dumps(each, sort_keys=True) for each in (again, whole.summaries)]
    assert written[0] == written[1]  # NaN is not NaN
    for path, time in files.items():
        assert path.stat().st_mtime_ns == time


def test_an_interrupted_cohort_continues_to_the_same_bits(configs, whole, tmp_path, monkeypatch):
    workdirs = [tmp_path / str(i) for i in range(3)]
    asked = iter([False, False, True])
    console = _console()
    stopped = train_cohort(configs, workdirs, stop=lambda: next(asked), console=console)
    assert stopped == [None] * 3
    assert console.file.getvalue().count("Stopped after step 6") == 3
    # As if it had been killed after the first two runs saved step 6.
    shutil.rmtree(workdirs[2] / "checkpoints" / "6")
    # And once more when only the first has its summary.
    finish = cohort.finish

    def killed(*args):
        if args[1] == workdirs[1]:
            raise KeyboardInterrupt
        return finish(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cohort, "finish", killed)
        train_cohort(configs, workdirs, console=console)
    assert "after step 4" in console.file.getvalue()
    assert [(workdir / "summary.json").exists() for workdir in workdirs] == [True, False, False]
    summaries = train_cohort(configs, workdirs, console=console)
    assert "2 runs are trained together, after step 12" in console.file.getvalue()
    for ours, theirs in zip(summaries, whole.summaries, strict=True):
        ours, theirs = ({k: v for k, v in s.items() if k not in TIMES} for s in (ours, theirs))
        assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    for ours, theirs in zip(workdirs, whole.workdirs, strict=True):
        assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
        saved = [(d / "checkpoints" / "12" / "digest" / "metadata") for d in (ours, theirs)]
        assert saved[0].read_bytes() == saved[1].read_bytes()


class _Norm(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(8)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(self.classes)(nn.relu(x))


def _norm(classes: int = 10) -> nn.Module:
    return _Norm(classes)


@pytest.mark.parametrize("kind", ["dense with batch norm", "straight-through"])
def test_other_networks_and_rules(kind, tmp_path, monkeypatch):
    config = build_tiny()
    config.steps = 4
    if kind == "straight-through":
        config.rule = ConfigDict({"name": "ste_magnitude", "sparsity": 0.8})
        config.transform.name = "chain"
        changes: dict[str, Any] = {"rule.sparsity": 0.9}
    else:
        monkeypatch.setitem(build.MODEL.candidates, "norm", _norm)
        config.model = ConfigDict({"name": "norm"})
        config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9})
        config.weight_decay = 1e-4
        changes = {"weight_decay": 1e-2, "optimizer.momentum": 0.5}
    runs = [config, override(config, changes | {"optimizer.learning_rate": 0.02, "seed": 7})]
    train_cohort(runs, [tmp_path / "0", tmp_path / "1"], console=_console())
    alone = train(runs[1], tmp_path / "alone", console=_console())
    _assert_like_alone(tmp_path / "1", alone, tmp_path / "alone")


def test_groups():
    config = build_tiny()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 3, "seed": 1})
    config.data.share = 0.5
    runs = [
        {},
        {"seed": 1, "rule.seed": 2, "rule.sparsity": 0.9, "optimizer.learning_rate": 0.1},
        {"rule.period": 4},  # a step is not traced
        {"procedure": {"name": "any", "share": 0.5}},
        {"procedure": {"name": "any", "share": 0.5}, "seed": 1},
        {"optimizer.learning_rate": {"name": "constant_schedule", "value": 0.1}},
        {"rule.sparsity": 0},  # the configuration makes a float of it
        {"data.share": 0.6},
        {"weight_decay": 0.1},
        {"rule.period": 4, "seed": 3},
        {"seed": 4},
        {"optimizer.b1": 0.9},
        {"optimizer.b1": None},
    ]
    configs = [override(config, run) for run in runs]
    assert groups(configs, 3) == [[0, 1, 6], [2, 9], [3], [4], [5], [7], [8, 10], [11], [12]]
    assert groups(configs, 1) == [[i] for i in range(13)]
    assert groups([], 3) == []
    with pytest.raises(ValueError, match="at least 1"):
        groups(configs, 0)


def test_what_cannot_be_traced_is_trained_apart(tmp_path, monkeypatch):
    config = build_tiny()
    # optax asks whether the decay rate is 0, and a weight decay of 0 makes another optimizer.
    schedule = {"name": "exponential_decay", "init_value": 0.1, "transition_steps": 5}
    schedule["decay_rate"] = 0.5
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": schedule})
    config.weight_decay = 0.1
    runs = [{}, {"weight_decay": 0.2}, {"weight_decay": 0.0}, {"seed": 1}]
    runs += [{"seed": s, "optimizer.learning_rate.decay_rate": 0.9} for s in (0, 1)]
    configs = [override(config, run) for run in runs]
    assert groups(configs, 6) == [[*range(6)]]
    parts = []

    def train_(part, stop, console):
        parts.append([int(member.workdir.name) for member in part.members])
        return {member.workdir: {"of": member.workdir.name} for member in part.members}

    monkeypatch.setattr(cohort, "_train", train_)
    monkeypatch.setattr(cohort, "_level", lambda part: [part])
    monkeypatch.setattr(
        cohort.procedures, "run", lambda config, workdir, *_, **__: {"of": workdir.name}
    )
    summaries = train_cohort(configs, [tmp_path / str(i) for i in range(6)], console=_console())
    assert parts == [[0, 1, 3], [4, 5]]  # and 2 alone
    assert summaries == [{"of": str(i)} for i in range(6)]


def test_runs_at_different_steps_are_trained_apart(tmp_path):
    """Steps of the checkpoints of each run, and which runs go on together."""

    def begin(values):
        return {"step": jnp.int32(0), "x": values["x"]}

    def level(saved: list[list[int]]) -> list[list[float]]:
        members = []
        for i, steps in enumerate(saved):
            workdir = tmp_path / str(len(list(tmp_path.iterdir()))) / str(i)
            checkpoints = Checkpoints(workdir / "checkpoints")
            for step in steps:
                state = {"step": jnp.int32(step), "x": jnp.float32(i)}
                checkpoints.save(step, state, best=0)
            checkpoints.close()
            members.append(cohort.Member(None, workdir, None))
        values = [{"x": jnp.float32(i)} for i in range(len(saved))]
        parts = cohort._level(Cohort(members, values, Programs(begin, None, None)))
        return [[float(each["x"]) for each in part.values] for part in parts]

    assert level([[], []]) == [[0, 1]]
    assert level([[4, 8], [4]]) == [[0, 1]]  # killed between two saves
    assert level([[4], []]) == [[0, 1]]  # between the first two
    assert level([[4, 8], [], [8], []]) == [[0, 2], [1, 3]]
    assert level([[4, 8], [8, 12], [12, 16]]) == [[0], [1], [2]]


def test_a_wrong_folder_or_value_is_refused(configs, whole, tmp_path):
    with pytest.raises(ValueError, match="of its own"):
        train_cohort(configs[:2], [tmp_path, tmp_path])
    with pytest.raises(UserError, match=r"config\.seed: 1 there, 2 now|config\.seed"):
        train_cohort(configs[:2], whole.workdirs[1:])
    wrong = override(configs[0], {"rule.sparsity": 1.5})
    with pytest.raises(UserError, match=r"config\.rule\.sparsity: 1\.5 is impossible"):
        train_cohort([configs[0], wrong], [tmp_path / "0", tmp_path / "1"])
    assert not (tmp_path / "0").exists()
