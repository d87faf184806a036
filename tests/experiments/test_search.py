"""A search: that an interruption leaves no trace, what it chooses by, what it refuses."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import report_data, runs, search, space
from experiments.config import default
from experiments.errors import UserError
from experiments.search_results import BEST, Goal, Trial, best
from experiments.space import choice, integers, uniform

ROOT = Path(__file__).parents[2]
ACCURACY, PARETO = Goal("accuracy", "flops", most_flops=0.3), Goal("pareto", "flops")
SPACE = {
    "rule": choice({"name": "gmp", "begin": 2, "end": 9}, {"name": "static"}),
    "rule.sparsity": uniform(0.2, 0.98),
    "steps": integers(10, 1000, log=True),
}


class _Killed(BaseException):
    pass


class _Trainer:
    """In the place of `sweep.execute`: results by a formula, that last like those on a disk.

    Args:
      root: where the runs' folders would be.
      only: how many runs it makes until it is killed, or asked to stop; None for all.
      stops: whether it is asked to stop, rather than killed.
      fails: says of a configuration whether its run fails.
    """

    def __init__(self, root, only=None, stops=False, fails=lambda config: False):
        self.root, self.only, self.stops, self.fails = root, only, stops, fails
        self.trained, self.batches, self.summaries = [], [], {}

    def __call__(self, configs):
        self.batches.append(len(configs))
        return [self._run(config) for config in configs]

    def _run(self, config) -> runs.Run:
        name, error = runs.identity(config), None
        if self.fails(config):
            error = "Traceback: no"
        elif name not in self.summaries and self._goes_on():
            self.trained.append(name)
            self.summaries[name] = _summary(config)
        return runs.Run(self.root / name, config.to_dict(), [], self.summaries.get(name), error)

    def _goes_on(self) -> bool:
        if self.only is None or len(self.trained) < self.only:
            return True
        if not self.stops:
            raise _Killed
        return False


def _summary(config) -> dict:
    density = 1 - config.rule.sparsity
    accuracy = np.tanh(4 * density) * (0.9 if config.rule.name == "static" else 1.0)
    return {
        "validation_accuracy": float(accuracy),
        "test_accuracy": float(accuracy) - 0.01,
        "sparsity": config.rule.sparsity,
        "flops": {"dense": 500, "sparse": 500 * density},
        "bytes": {"dense": 1000, "sparse": 1000 * density + 31},
    }


def _search(root, trainer, *, goal=PARETO, trials=18, parallel=4, seed=0, config=None):
    config = config or default()
    options = {"trials": trials, "parallel": parallel, "seed": seed}
    return search.search(config, SPACE, root, goal, **options, execute=trainer)


@pytest.fixture(scope="module", params=[ACCURACY, PARETO], ids=lambda goal: goal.objective)
def whole(request, tmp_path_factory):
    """A goal, and the trials of a search for it that nothing interrupts."""
    root = tmp_path_factory.mktemp("whole")
    return request.param, _search(root, _Trainer(root), goal=request.param)


def test_trials_are_chosen_in_batches_within_the_space(whole):
    _, trials = whole
    assert [trial.number for trial in trials] == [*range(18)]
    assert {trial.overrides["rule"]["name"] for trial in trials} == {"gmp", "static"}
    for trial in trials:
        assert set(trial.overrides) == set(SPACE)
        assert 0.2 <= trial.overrides["rule.sparsity"] <= 0.98
        assert 10 <= trial.overrides["steps"] <= 1000
        assert isinstance(trial.overrides["steps"], int)
        assert trial.results["flops"] == pytest.approx(1 - trial.overrides["rule.sparsity"])
    assert len({trial.run for trial in trials}) == 18


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("only", [0, 7, 17])
def test_an_interruption_leaves_no_trace(only, stops, whole, tmp_path):
    goal, trials = whole
    trainer = _Trainer(tmp_path, only, stops)
    if stops:
        assert _search(tmp_path, trainer, goal=goal) == trials[: only // 4 * 4]
    else:
        with pytest.raises(_Killed):
            _search(tmp_path, trainer, goal=goal)
    trainer.only = None
    # What was chosen is made first, whatever there could be at a time now.
    assert (
        _search(tmp_path, trainer, goal=goal, trials=only // 4 * 4 + 1, parallel=1)
        == (trials[: (only // 4 + 1) * 4])
    )
    assert _search(tmp_path, trainer, goal=goal) == trials
    assert len(set(trainer.trained)) == len(trainer.trained) == 18
    # Once over, it chooses and runs nothing more.
    trainer.batches.clear()
    assert _search(tmp_path, trainer, goal=goal) == trials
    assert not trainer.batches


def test_a_kill_between_two_lines_or_within_one_leaves_no_trace(whole, tmp_path, monkeypatch):
    goal, trials = whole
    trainer = _Trainer(tmp_path)
    told, seen = search._told, []

    def killed(parameters, *arguments):
        seen.append(parameters)
        if len(seen) == 7:
            raise _Killed
        return told(parameters, *arguments)

    monkeypatch.setattr(search, "_told", killed)
    with pytest.raises(_Killed):
        _search(tmp_path, trainer, goal=goal)
    monkeypatch.setattr(search, "_told", told)
    journal = tmp_path / "search.jsonl"
    assert len(_search(tmp_path, trainer, goal=goal, trials=1)) == 6
    with journal.open("a") as file:
        file.write('{"op_code": 4, "worker_id": ')
    assert _search(tmp_path, trainer, goal=goal) == trials
    assert len(set(trainer.trained)) == len(trainer.trained) == 18


def test_more_trials_later_are_those_of_one_search(whole, tmp_path):
    goal, trials = whole
    trainer = _Trainer(tmp_path)
    assert _search(tmp_path, trainer, goal=goal, trials=8) == trials[:8]
    assert _search(tmp_path, trainer, goal=goal) == trials
    assert trainer.batches == [4, 4, 4, 4, 2]
    others = _search(tmp_path / "other", trainer, goal=goal, seed=1, trials=4)
    assert not {trial.run for trial in others} & {trial.run for trial in trials}


def test_nothing_is_pickled_and_the_journal_is_lines_of_json(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for trials in (12, 16):
        _search(tmp_path, _Trainer(tmp_path), trials=trials)
    assert [path.name for path in tmp_path.iterdir()] == ["search.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert sum("distributions" in line for line in lines) == 16


def test_equal_configurations_are_one_run(tmp_path):
    trainer = _Trainer(tmp_path)
    config = default()
    config.rule = ConfigDict({"name": "static", "sparsity": 0.5})
    few = {"rule.sparsity": choice(0.5, 0.75)}
    trials = search.search(config, few, tmp_path, PARETO, trials=12, parallel=3, execute=trainer)
    assert len(trials) == 12
    assert len(trainer.trained) == 2
    assert [trial.overrides["rule.sparsity"] for trial in best(trials, PARETO)] == [0.75, 0.5]


def test_the_front_is_that_of_every_pair_compared():
    rng = np.random.default_rng(0)
    for size in (1, 2, 30, 200):
        cost, accuracy = rng.integers(0, 12, (2, size)) / 12  # with ties
        no_worse = (cost[:, None] <= cost) & (accuracy[:, None] >= accuracy)
        better = (cost[:, None] < cost) | (accuracy[:, None] > accuracy)
        expected = np.flatnonzero(~(no_worse & better).any(0))
        trials = [
            Trial(i, f"{i}", {}, {"bytes": cost[i], "validation_accuracy": accuracy[i]})
            for i in range(size)
        ]
        found = best(trials, Goal("pareto", "bytes"))
        assert sorted(trial.number for trial in found) == expected.tolist()
        assert np.all(np.diff([trial.results["bytes"] for trial in found]) >= 0)


def test_the_choices_follow_the_objective_and_the_limits(tmp_path):
    trials = _search(tmp_path, _Trainer(tmp_path), goal=ACCURACY, trials=32)
    flops = np.array([trial.results["flops"] for trial in trials])
    accuracy = np.array([trial.results["validation_accuracy"] for trial in trials])
    # The first ten are drawn at random; those after them near the best that is allowed.
    assert np.mean(np.abs(flops[16:] - 0.3)) < 0.6 * np.mean(np.abs(flops[:10] - 0.3))
    chosen = best(trials, ACCURACY)
    assert len(chosen) == BEST
    assert all(trial.results["flops"] <= 0.3 for trial in chosen)
    assert chosen[0].results["validation_accuracy"] == accuracy[flops <= 0.3].max()
    assert accuracy.max() > accuracy[flops <= 0.3].max()  # the limit costs something
    both = Goal("pareto", "flops", most_flops=0.5, most_bytes=0.4)
    assert all(trial.results["bytes"] <= 0.4 for trial in best(trials, both))


def test_the_test_examples_choose_nothing():
    results = {"flops": 0.5, "bytes": 0.5, "sparsity": 0.5}
    trials = [
        Trial(i, f"{i}", {}, results | {"validation_accuracy": v, "test_accuracy": t})
        for i, (v, t) in enumerate([(0.9, 0.8), (0.8, 0.9)])
    ]
    assert [trial.number for trial in best(trials, PARETO)] == [0]
    assert [trial.number for trial in best(trials, Goal("accuracy", "flops"))] == [0, 1]


def test_runs_that_fail_count_and_the_search_goes_on(tmp_path):
    trainer = _Trainer(tmp_path, fails=lambda config: config.rule.name == "static")
    trials = _search(tmp_path, trainer, goal=ACCURACY)
    assert len(trials) == 18
    for trial in trials:
        assert bool(trial.results) == (trial.overrides["rule"]["name"] == "gmp")
    failed = sum(not trial.results for trial in trials)
    assert 0 < failed < 18
    text = io.StringIO()
    search.show(trials, ACCURACY, tmp_path, Console(file=text, width=120))
    assert f"18 trials: {18 - failed} finished, {failed} failed." in text.getvalue()


def test_what_was_found_is_shown_and_written(whole, tmp_path):
    goal, trials = whole
    text = io.StringIO()
    search.show(trials, goal, tmp_path, Console(file=text, width=120))
    chosen = best(trials, goal)
    for trial in chosen:
        assert f"{trial.results['test_accuracy']:.2%}" in text.getvalue()
        assert f"sparsity={trial.overrides['rule.sparsity']:.4g}" in text.getvalue()
    written = json.loads((tmp_path / "search.json").read_text())
    assert [Trial(**trial) for trial in written["trials"]] == trials
    assert [Trial(**trial) for trial in written["best"]] == chosen
    assert Goal(**written["goal"]) == goal
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_said_that_nothing_is_within_the_limits(whole, tmp_path):
    _, trials = whole
    text = io.StringIO()
    goal = Goal("accuracy", "bytes", most_bytes=0.001)
    search.show(trials, goal, tmp_path, Console(file=text, width=120))
    least = min(trial.results["bytes"] for trial in trials)
    assert "No trial is within the limits" in text.getvalue()
    assert f"{least:.3g} of the bytes" in text.getvalue()


def test_another_search_is_refused_in_the_directory(tmp_path):
    trainer = _Trainer(tmp_path)
    _search(tmp_path, trainer, trials=4)
    other = default()
    other.batch_size = 64
    for options, key in [
        ({"config": other}, "config.batch_size"),
        ({"seed": 1}, "search_seed"),
        ({"goal": Goal("pareto", "bytes")}, "goal.cost"),
        ({"goal": ACCURACY}, "goal.most_flops, goal.objective"),
    ]:
        with pytest.raises(UserError, match=f"holds another search.*differ in {key}$"):
            _search(tmp_path, trainer, **options)
    (tmp_path / "search.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="not a journal of Optuna"):
        _search(tmp_path, trainer)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rule.sparsty": uniform(0.5, 0.9)}, "sparsty"),
        ({"stepz": integers(1, 2)}, "config.stepz: unknown key"),
        ({"rule.sparsity": uniform(0.5, 1.0)}, "config.rule.sparsity: 1.0 is impossible"),
        ({"rule.name": choice("rigl", "static", "rigel")}, "rigel"),
        ({"steps.rule": integers(1, 2)}, "config.steps is no sub-configuration"),
        ({"procedure": choice({"name": "sensitivity"})}, "config.procedure"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(choices, message, tiny):
    del tiny.rule.period, tiny.rule.end
    tiny.rule.name = "static"
    with pytest.raises(UserError, match=message):
        search.prepare(tiny, choices, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(0.9, 0.5), "low <= high"),
        (lambda: uniform(0.5, float("inf")), "finite"),
        (lambda: uniform("0", 1), "must be finite numbers"),
        (lambda: uniform(0.0, 0.5, log=True), "greater than 0"),
        (lambda: integers(1, 2.5), "whole numbers"),
        (lambda: choice(), "one value or more"),
        (lambda: choice(1, 1), "all of them different"),
        (lambda: choice(len), "JSON cannot hold this"),
    ],
)
def test_an_impossible_choice_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"there is no function search\(\)"),
        ("def search():\n    return {}", "must return a mapping that is not empty"),
        ("def search():\n    return {'steps': 3}", r"gives steps 3; allowed: uniform"),
    ],
)
def test_a_file_without_a_space_is_refused(text, message, tmp_path):
    (tmp_path / "some.py").write_text(text)
    with pytest.raises(UserError, match=message):
        space.of_file(tmp_path / "some.py")


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'sparsejax\[search\]'"):
        _search(tmp_path, _Trainer(tmp_path))
    assert space.of_file(ROOT / "configs" / "digits_search.py")  # the space needs none


CONFIG = """
from ml_collections import ConfigDict

from experiments.config import default
from experiments.space import choice, uniform


def get_config():
    config = default()
    config.model.widths = ()
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 12, 2, 4
    return config


def search():
    gmp = {"name": "gmp", "begin": 2, "end": 9, "period": 3}
    return {"rule": choice(gmp, {"name": "static"}), "rule.sparsity": uniform(0.5, 0.9)}
"""


def test_the_command_searches_in_parallel(tmp_path):
    (tmp_path / "digits.py").write_text(CONFIG)
    root = tmp_path / "runs"
    command = [sys.executable, "-m", "experiments.search", f"--config={tmp_path / 'digits.py'}"]
    flags = "--trials=2 --parallel=2 --objective=pareto --cost=bytes"
    process = subprocess.run(
        [*command, f"--workdir={root}", *flags.split()],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    assert "2 trials: 2 finished, 0 failed." in process.stdout
    trials = [Trial(**t) for t in json.loads((root / "search.json").read_text())["trials"]]
    assert {trial.run for trial in trials} == {run.path.name for run in runs.find(root)}
    for trial in trials:
        run = runs.read(root / trial.run)
        assert run.config["rule"]["sparsity"] == trial.overrides["rule.sparsity"]
        assert run.summary["validation_accuracy"] == trial.results["validation_accuracy"]
        sizes = run.summary["bytes"]
        assert trial.results["bytes"] == sizes["sparse"] / sizes["dense"]
        assert trial.results["sparsity"] == pytest.approx(
            trial.overrides["rule.sparsity"], abs=0.01
        )
    assert report_data.collect(root)["states"]["finished"] == 2
