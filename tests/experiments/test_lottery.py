"""Lottery tickets of a tiny network: masks, beginnings, interruptions, files."""

import copy
import importlib.util
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import lottery, procedures, report_data
from experiments.checkpoint import digest
from experiments.config import default
from experiments.errors import UserError
from experiments.grid import override
from experiments.runs import Run
from experiments.train import init, prepare, train

CONFIG = Path(__file__).parents[2] / "configs" / "mnist_lenet300_lottery.py"
# Kept weights after each round: a layer loses 20 %, the last one 10 %; 6.5 is rounded to 6.
FIRST, LAST = [512, 410, 328, 262], [80, 72, 65, 59]


def _config(**procedure) -> ConfigDict:
    config = default()
    config.model.widths = (8,)
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 8, 2, 4
    config.optimizer = ConfigDict({"name": "adam"})
    config.optimizer.learning_rate = ConfigDict({"name": "cosine_decay_schedule"})
    config.optimizer.learning_rate.init_value = 0.01
    config.optimizer.learning_rate.decay_steps = 8
    config.procedure = ConfigDict({"name": "lottery", "rounds": 3, "rates": {"Dense_1/*": 0.1}})
    config.procedure.update(procedure)
    return config


def _run(config, workdir, stop=lambda: False):
    console = Console(file=io.StringIO(), width=200)
    return procedures.run(config, workdir, stop=stop, console=console)


class Trained(NamedTuple):
    config: ConfigDict
    workdir: Path
    summary: dict[str, Any]
    before: dict[str, Any]  # the state at the beginning of each stage
    after: dict[str, Any]

    def masks(self, stage):
        masks = sparsejax.get_masks(self.before[stage].opt_state)
        return {layer: np.asarray(masks[layer]["kernel"]) for layer in masks}


def _trained(config, workdir) -> Trained:
    """Runs it, and looks at what is trained."""
    before, after = {}, {}
    fit = lottery.fit

    def spy(config, folder, experiment, begin, **options):
        before[folder.name] = begin()
        result = fit(config, folder, experiment, begin, **options)
        after[folder.name] = result.state
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lottery, "fit", spy)
        summary = _run(config, workdir)
    return Trained(config, workdir, summary, before, after)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Trained:
    """Three rounds, rewound to the initial weights, with controls in the second."""
    return _trained(_config(controls=(2,)), tmp_path_factory.mktemp("lottery") / "whole")


@pytest.fixture(scope="module")
def rewound(tmp_path_factory) -> Trained:
    """A round that is rewound to step 4."""
    config = _config(controls=(1,), rounds=1, rewind_step=4)
    return _trained(config, tmp_path_factory.mktemp("lottery") / "rewound")


def test_each_stage_has_its_folder_and_its_entry(whole):
    kinds = {
        "round_00_dense": ("dense", 0),
        "round_01_rewound": ("rewound", 1),
        "round_02_rewound": ("rewound", 2),
        "round_02_reinitialized": ("reinitialized", 2),
        "round_02_shuffled": ("shuffled", 2),
        "round_03_rewound": ("rewound", 3),
    }
    stages = whole.summary["stages"]
    assert {name: (s["kind"], s["round"]) for name, s in stages.items()} == kinds
    assert {p.name for p in whole.workdir.iterdir()} == kinds.keys() | {
        "config.json", "summary.json"
    }  # fmt: skip
    for name, stage in stages.items():
        own = json.loads((whole.workdir / name / "summary.json").read_text())
        assert own.pop("config")["procedure"]["rounds"] == 3
        assert own.items() <= stage.items()
        assert own["step"] == 8
        lines = (whole.workdir / name / "metrics.jsonl").read_text().splitlines()
        lines = [line for line in map(json.loads, lines) if line["kind"] == "validation"]
        least = min(lines, key=lambda line: line["loss"])
        assert stage["least_loss"] == {key: least[key] for key in ("step", "loss", "accuracy")}
    assert json.loads((whole.workdir / "summary.json").read_text()) == json.loads(
        json.dumps(whole.summary)
    )


def test_each_layer_loses_its_share_of_what_is_left(whole):
    for name, stage in whole.summary["stages"].items():
        first, last = FIRST[stage["round"]], LAST[stage["round"]]
        assert stage["layers"]["Dense_0/kernel"] == {"kept": first, "total": 512}
        assert stage["layers"]["Dense_1/kernel"] == {"kept": last, "total": 80}
        assert stage["density"] == (first + last) / 592
        if stage["kind"] != "dense":
            masks, params = whole.masks(name), whole.after[name].params
            for layer, kept in (("Dense_0", first), ("Dense_1", last)):
                assert masks[layer].sum() == kept
                assert np.array_equal(masks[layer], np.asarray(params[layer]["kernel"]) != 0)


def test_the_smallest_of_the_trained_weights_go(whole):
    for earlier, later in (
        ("round_00_dense", "round_01_rewound"),
        ("round_01_rewound", "round_02_rewound"),
        ("round_02_rewound", "round_03_rewound"),
    ):
        for layer, mask in whole.masks(later).items():
            trained = np.abs(whole.after[earlier].params[layer]["kernel"])
            assert np.all(trained[mask] > 0)  # nested: what was pruned is 0
            assert trained[mask].min() >= trained[~mask].max()


def test_a_pruned_weight_stays_pruned_where_others_are_zero():
    ticket = {"w": np.array([[True, False, False, True]])}
    params = {"w": np.array([[5.0, 0.0, 0.0, 0.0]], np.float32)}
    assert np.array_equal(lottery._pruned(params, ticket, {"w": 2})["w"], ticket["w"])


def test_tickets_begin_with_the_initial_weights(whole):
    initial = init(prepare(whole.config))
    assert digest(whole.before["round_00_dense"]) == digest(initial)
    for number in (1, 2, 3):
        state = whole.before[f"round_{number:02}_rewound"]
        masks = sparsejax.get_masks(state.opt_state)
        assert digest(state.params) == digest(sparsejax.apply_masks(initial.params, masks))
        assert digest(state.opt_state.inner_state) == digest(initial.opt_state)
        assert int(state.step) == 0
        assert digest(state.evaluated_masks) == digest(masks)


def test_a_control_has_the_tickets_masks_and_new_weights(whole):
    ticket, control = (whole.before[f"round_02_{kind}"] for kind in ("rewound", "reinitialized"))
    assert digest(ticket.opt_state) == digest(control.opt_state)
    for layer, mask in whole.masks("round_02_rewound").items():
        old, new = (np.asarray(state.params[layer]["kernel"]) for state in (ticket, control))
        assert np.array_equal(new != 0, mask)
        assert np.all(old[mask] != new[mask])
        assert new.std() == pytest.approx(old.std(), rel=0.3)


def test_a_control_has_the_initial_weights_in_other_places(whole):
    initial = init(prepare(whole.config)).params
    shuffled = whole.before["round_02_shuffled"].params
    masks, ticket = whole.masks("round_02_shuffled"), whole.masks("round_02_rewound")
    for layer, mask in masks.items():
        assert mask.sum() == ticket[layer].sum()
        assert not np.array_equal(mask, ticket[layer])
        expected = np.where(mask, initial[layer]["kernel"], 0)
        assert np.array_equal(shuffled[layer]["kernel"], expected)


def test_random_choices_hang_on_the_seed_and_the_round():
    """As a control's beginning shows, which is made before anything is trained."""
    kept = {"Dense_0/kernel": FIRST[1], "Dense_1/kernel": LAST[1]}

    def weights_and_masks(seed, number):
        dense = prepare(override(_config(), {"seed": seed}))
        start, digests = init(prepare(_config())), []
        ticket = sparsejax.dense_masks(start.params)
        for kind in ("reinitialized", "shuffled"):
            stage = lottery.Stage(kind, number)
            digests.append(digest(lottery._beginning(stage, dense, start, ticket, kept)[1].params))
        return digests

    choices = [weights_and_masks(*pair) for pair in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert choices[0] == choices[1]
    assert all(len(set(column)) == 3 for column in zip(*choices, strict=True))


def test_the_state_to_rewind_to_is_that_of_a_training_of_so_many_steps(rewound, tmp_path):
    plain = override(rewound.config, {"procedure": None})
    console = Console(file=io.StringIO())
    early = train(override(plain, {"steps": 4}), tmp_path / "early", console=console).state
    late = train(plain, tmp_path / "late", console=console).state
    assert int(early.step) == 4
    assert digest(rewound.after["start"]) == digest(early)
    assert digest(rewound.before["round_00_dense"]) == digest(early)
    assert digest(rewound.after["round_00_dense"]) == digest(late)


def test_a_round_begins_from_the_state_to_rewind_to(rewound):
    start = rewound.after["start"]
    for kind in ("rewound", "shuffled"):
        state = rewound.before[f"round_01_{kind}"]
        masks = sparsejax.get_masks(state.opt_state)
        assert int(state.step) == 4
        assert digest(state.params) == digest(sparsejax.apply_masks(start.params, masks))
        adam, schedule = state.opt_state.inner_state
        assert int(schedule.count) == int(adam.count) == 4
        for slots in ("mu", "nu"):
            expected = sparsejax.apply_masks(getattr(start.opt_state[0], slots), masks)
            assert digest(getattr(adam, slots)) == digest(expected)
    assert int(rewound.before["round_01_reinitialized"].step) == 0
    assert {int(state.step) for name, state in rewound.after.items() if name != "start"} == {8}
    assert "start" not in rewound.summary["stages"]


def test_batch_statistics_are_rewound():
    start = init(prepare(_config()))._replace(batch_stats={"mean": np.ones(3)})
    ticket, kept = sparsejax.dense_masks(start.params), {"Dense_0/kernel": 9, "Dense_1/kernel": 9}
    for kind, rewinds in (("rewound", True), ("shuffled", True), ("reinitialized", False)):
        stage = lottery.Stage(kind, 1)
        _, state = lottery._beginning(stage, prepare(_config()), start, ticket, kept)
        assert bool(state.batch_stats) == rewinds


def _lasting(content):
    """Without the times, which differ from run to run."""
    if not isinstance(content, dict):
        return content
    times = ("seconds", "steps_per_second")
    return {key: _lasting(value) for key, value in content.items() if key not in times}


def _assert_same(workdir, summary, expected):
    names = sorted(p.relative_to(expected.workdir) for p in expected.workdir.glob("*/*.json*"))
    assert len(names) == 3 * len(expected.after)
    for name in [*names, Path("config.json"), Path("summary.json")]:
        ours, theirs = workdir / name, expected.workdir / name
        if name.name == "summary.json":
            ours, theirs = (_lasting(json.loads(p.read_text())) for p in (ours, theirs))
            assert ours == theirs
        else:
            assert ours.read_bytes() == theirs.read_bytes()
    assert _lasting(json.loads(json.dumps(summary))) == _lasting(
        json.loads(json.dumps(expected.summary))
    )


def test_a_stopped_lottery_continues_to_the_same_bits(rewound, tmp_path):
    asked, stops = itertools.count(1), 0
    workdir = tmp_path / "run"
    while (summary := _run(rewound.config, workdir, lambda: next(asked) % 3 == 0)) is None:
        stops += 1
        assert not (workdir / "summary.json").exists()
    assert stops == 2  # of three times asked: the third time a stage was at its end anyway
    _assert_same(workdir, summary, rewound)


def test_a_killed_lottery_continues_to_the_same_bits(rewound, tmp_path):
    """Killed in the last stage; one before it turns out to be damaged."""
    workdir = tmp_path / "run"
    shutil.copytree(rewound.workdir, workdir)
    (workdir / "summary.json").unlink()
    (workdir / "round_01_shuffled" / "summary.json").unlink()
    shutil.rmtree(workdir / "round_01_shuffled" / "checkpoints" / "8")
    shutil.rmtree(workdir / "round_00_dense" / "checkpoints" / "8")
    again = _trained(rewound.config, workdir)
    assert {k: digest(v) for k, v in again.after.items()} == {
        k: digest(v) for k, v in rewound.after.items()
    }
    _assert_same(workdir, again.summary, rewound)


def test_a_finished_lottery_trains_nothing(whole, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in whole.workdir.rglob("*") if p.is_file()}
    monkeypatch.setattr(lottery, "fit", None)
    assert _run(whole.config, whole.workdir) == json.loads(json.dumps(whole.summary))
    assert before == {p: p.stat().st_mtime_ns for p in whole.workdir.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": {"name": "static", "sparsity": 0.5}}, r"config\.rule: 'static' .*allowed: None"),
        ({"procedure.rate": 1.0}, r"config\.procedure\.rate: 1\.0 .*allowed: in \[0, 1\)"),
        ({"procedure.rates": {"D*": -0.1}}, r"rates\['D\*'\]: -0\.1 .*allowed: in \[0, 1\)"),
        ({"procedure.rates": {"D*": "a"}}, r"rates\['D\*'\]: 'a' .*allowed: in \[0, 1\)"),
        (
            {"procedure.rates": {"Dense_2/*": 0.1}},
            r"'Dense_2/\*' matches no prunable parameter; there are: Dense_0/kernel, Dense_1/ker",
        ),
        ({"procedure.rounds": 0}, r"config\.procedure\.rounds: 0 .*at least 1"),
        (
            {"procedure.rounds": 9, "procedure.rates": {"Dense_1/*": 0.6}},
            r"rounds: 9 .*at most 5, since nothing is left of Dense_1/kernel in round 6",
        ),
        ({"procedure.controls": (1, 4)}, r"controls: \(1, 4\) .*rounds, from 1 to 3"),
        ({"procedure.controls": (0,)}, r"controls: \(0,\) .*rounds, from 1 to 3"),
        ({"procedure.rewind_step": 3}, r"rewind_step: 3 .*a multiple of config\.log_every, 2, bel"),
        ({"procedure.rewind_step": 8}, r"rewind_step: 8 .*below config\.steps, 8"),
        ({"procedure.round": 8}, r"config\.procedure\.round: lottery has no such argument"),
        ({"procedure.name": "lotery"}, r"'lotery' is unknown; allowed: .*lottery"),
    ],
)
def test_what_is_impossible_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        _run(override(_config(), changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_lotterys_directory_is_refused(whole):
    with pytest.raises(UserError, match=r"config\.procedure\.rounds: 3 there, 2 now"):
        _run(override(whole.config, {"procedure.rounds": 2}), whole.workdir)


def test_the_report_shows_the_stages(whole):
    data = report_data.collect(whole.workdir)
    assert data["methods"] == ["dense", "reinitialized", "rewound", "shuffled"]
    levels = {
        f"{100 * (1 - (a + b) / 592):.4g} %" for a, b in zip(FIRST[1:], LAST[1:], strict=True)
    }
    shown = {(data["methods"][s["method"]], s["level"]) for s in data["settings"]}
    assert {level for method, level in shown if method == "rewound"} == levels
    assert len(shown) == 6
    accuracies = {run["name"].partition("/")[2]: run["test"] for run in data["runs"]}
    stages = whole.summary["stages"]
    assert accuracies == {name: stage["test_accuracy"] for name, stage in stages.items()}


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("a_config", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _finished(shift: float = 0.0) -> Run:
    """A run of the paper's setting, made up."""
    stages = {}

    def add(kind, number, accuracy, step=9):
        first, last = 265_200 * 0.8**number, 1000 * 0.9**number
        stages[f"{number} {kind}"] = {
            "kind": kind,
            "round": number,
            "density": (first + last) / 266_200,
            "test_accuracy": accuracy + shift,
            "least_loss": {"step": step},
        }

    add("dense", 0, 0.98, step=8)
    for number in range(1, 16):
        add("rewound", number, 0.98 + number / 1000, step=6)
    for number in (3, 7, 12, 15):
        add("reinitialized", number, 0.97)
        add("shuffled", number, 0.96 + number / 1000)
    return Run(Path(), {}, [], {"stages": stages}, None)


def test_the_claims_are_measured(module):
    measured = {row.row: row.measure(_finished().summary) for row in module.PUBLISHED}
    assert list(measured.values()) == pytest.approx([0.7, 1.2, 1.5, 75, 2.35, 2.0])
    controls = module.get_config().procedure.controls
    assert [round(100 * (265.2 * 0.8**n + 0.9**n) / 266.2, 1) for n in controls] == [
        51.3, 21.1, 7.0, 3.6
    ]  # fmt: skip
    for row in module.PUBLISHED:  # a lottery without a winning ticket supports no claim
        summary = copy.deepcopy(_finished().summary)
        for stage in summary["stages"].values():
            if stage["kind"] == "rewound":
                stage["test_accuracy"], stage["least_loss"] = 0.95, {"step": 9}
        assert not row.low <= row.measure(summary) <= row.high


def test_the_figure_shows_means_and_standard_deviations(module):
    figure = module.lottery_tickets([_finished(shift) for shift in (-0.001, 0.0, 0.001)])
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert lines.keys() == {"dense", "winning tickets", "new weights", "random connections"}
    densities, means = lines["winning tickets"].get_data()
    assert densities[[0, -1]] == pytest.approx([0.8004, 0.0358], abs=1e-4)
    assert means == pytest.approx([0.98 + number / 1000 for number in range(1, 16)])
    assert lines["new weights"].get_ydata() == pytest.approx([0.97] * 4)
    left, right = ax.get_xlim()
    assert left > 1 > densities[-1] > right  # from dense to sparse
    band = ax.collections[0].get_paths()[0].vertices
    assert np.ptp(band[np.isclose(band[:, 0], densities[0]), 1]) == pytest.approx(0.002)
    figure.savefig(io.BytesIO(), format="png")
