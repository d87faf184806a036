"""A sweep as a command: what it survives, what it refuses, what it shows."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import board, claims, launchers, records, runs, sweep, worker
from experiments.errors import UserError
from experiments.train import train

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until a sweep that makes no progress fails the test
CONFIG = """
from experiments.config import default
from experiments.grid import over, product, seeds


def get_config():
    config = default()
    config.model.widths = ()
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 24, 2, 4
    return config


def sweep():
    return product(over("optimizer.learning_rate", [0.001, 0.002, 0.003]), seeds(8))
"""


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "digits.py"
    path.write_text(CONFIG)
    return path


def _configs(config_file: Path) -> list[ConfigDict]:
    scope: dict = {}
    exec(config_file.read_text(), scope)
    return sweep.configurations(scope["get_config"](), config_file)


def _start(config_file, workdir, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.sweep", "--config", config_file]
    return subprocess.Popen(
        [*map(str, [*command, "--workdir", workdir, *arguments])],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def _wait_until(holds, process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.01)


def _finished(workdir) -> int:
    return len(list(workdir.glob("*/summary.json")))


@pytest.mark.parametrize(
    ("seeds", "kills"),
    [(2, (1 / 3,)), pytest.param(8, (1 / 8, 1 / 3), marks=pytest.mark.full)],
)
def test_runs_survive_kills_of_the_sweep_one_of_a_worker_and_a_run_that_fails(
    seeds, kills, config_file, tmp_path
):
    """The sweep is killed each time that such a share of the runs is finished."""
    config_file.write_text(CONFIG.replace("seeds(8)", f"seeds({seeds})"))
    workdir = tmp_path / "runs"
    configs = _configs(config_file)
    number = len(configs)
    folders = [workdir / runs.identity(config) for config in configs]
    # Its checkpoints cannot be written, so this run fails, whenever it is tried.
    broken = folders[number // 2]
    broken.mkdir(parents=True)
    (broken / "checkpoints").touch()

    for share in kills:
        process = _start(config_file, workdir)
        _wait_until(lambda n=int(share * number): _finished(workdir) >= n, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = _start(config_file, workdir, "--retries=1")
    _wait_until(lambda: _finished(workdir) >= number // 2, process)
    taken = None
    while taken is None or taken.worker["pid"] == process.pid:
        taken = next(filter(None, map(claims.holder, folders)), None)
    os.kill(taken.worker["pid"], signal.SIGKILL)
    code, output = _finish(process)

    assert code == 1
    assert f"{number} runs: {number - 1} finished, 1 failed." in output
    assert str(broken / "error.txt") in output
    assert re.search(r"Error: .*checkpoints", (broken / "error.txt").read_text())
    failed = [a for a in claims.attempts(broken) if a.outcome == "failed"]
    assert len(failed) >= 2  # once, and tried again
    ended_dead = 0
    for config, folder in zip(configs, folders, strict=True):
        if folder == broken:
            continue
        run = runs.read(folder)
        assert run.state == "finished"
        assert run.error is None
        assert run.config == json.loads(json.dumps(config.to_dict()))
        assert [line["step"] for line in run.history if line["kind"] == "train"] == [
            *range(2, 25, 2)
        ]
        assert [line["step"] for line in run.history if line["kind"] == "validation"] == [
            *range(4, 25, 4)
        ]
        outcomes = [attempt.outcome for attempt in claims.attempts(folder)]
        # A worker may be killed when it has just finished a run, and has not said so yet.
        ended_dead += outcomes[-1] is None
        assert outcomes[-1] in ("finished", None)
        assert "finished" not in outcomes[:-1]
    assert ended_dead <= 1
    console = Console(file=io.StringIO())
    alone = train(configs[2], tmp_path / "alone", console=console)
    assert (folders[2] / "metrics.jsonl").read_bytes() == (
        tmp_path / "alone" / "metrics.jsonl"
    ).read_bytes()
    assert runs.read(folders[2]).summary["test_loss"] == alone.summary["test_loss"]

    # What was wrong is put right: the same command trains that run and no other.
    (broken / "checkpoints").unlink()
    times = {f: (f / "summary.json").stat().st_mtime_ns for f in folders if f != broken}
    code, output = _finish(_start(config_file, workdir))
    assert code == 0, output
    assert f"{number} runs: {number} finished." in output
    assert runs.read(broken).error is None
    assert times == {f: (f / "summary.json").stat().st_mtime_ns for f in times}


def test_two_sweeps_in_one_directory_share_its_runs(config_file, tmp_path):
    config_file.write_text(CONFIG.replace("seeds(8)", "seeds(2)"))
    workdir = tmp_path / "runs"
    sweeps = [_start(config_file, workdir, "--parallel=1") for _ in range(2)]
    for process in sweeps:
        code, output = _finish(process)
        assert code == 0, output
        assert "6 runs: 6 finished." in output
    jobs = set()
    for config in _configs(config_file):
        [attempt] = claims.attempts(workdir / runs.identity(config))
        assert attempt.outcome == "finished"
        jobs.add(attempt.job.partition("-")[0])
    assert len(jobs) == 2  # each did some


def test_a_cohort_trains_as_one_and_a_run_that_breaks_it_does_not_break_the_others(tiny, tmp_path):
    configs = []
    for seed in range(3):
        configs.append(tiny.copy_and_resolve_references())
        configs[-1].seed = seed
    folders = [tmp_path / runs.identity(config) for config in configs]
    folders[1].mkdir()
    (folders[1] / "checkpoints").touch()

    def run(which) -> list[str]:
        launcher = launchers.local(1)
        results = sweep.execute(
            [configs[i] for i in which],
            tmp_path,
            launcher=launcher,
            cohort=2,
            console=Console(file=io.StringIO()),
        )
        launcher.close()
        return [run.state for run in results]

    assert run([0, 1]) == ["finished", "failed"]
    assert "The cohort failed; its runs go on alone." in (folders[0] / "log.txt").read_text()
    (folders[1] / "checkpoints").unlink()
    assert run([1, 2]) == ["finished", "finished"]
    assert f"together with {folders[1].name}" in (folders[2] / "log.txt").read_text()
    for folder in folders:
        steps = [line["step"] for line in runs.read(folder).history if line["kind"] == "train"]
        assert steps == [2, 4, 6, 8, 10, 12]
        assert [a.outcome for a in claims.attempts(folder)].count("finished") == 1


def test_a_signal_lets_the_runs_save(config_file, tmp_path):
    config_file.write_text(CONFIG.replace("= 32, 24", "= 32, 40000"))
    workdir = tmp_path / "runs"
    process = _start(config_file, workdir, "--parallel=1")
    _wait_until(lambda: list(workdir.glob("*/checkpoints/4*")), process)
    process.send_signal(signal.SIGTERM)
    code, output = _finish(process)
    assert code == 1
    assert "Stopped; the same command continues." in output
    [folder] = [path.parent for path in workdir.glob("*/attempts")]
    [attempt] = claims.attempts(folder)
    assert attempt.outcome == "stopped"
    saved = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert records.last_line(folder / "metrics.jsonl")["step"] == saved
    assert not list((workdir / ".workers").glob("*.json"))


def test_a_dry_run_shows_the_runs_and_trains_nothing(config_file, tmp_path):
    config_file.write_text(CONFIG.replace("seeds(8)", "seeds(2)"))
    code, output = _finish(_start(config_file, tmp_path / "runs", "--dry_run"))
    assert code == 0
    assert len(re.findall(r"dense optimizer\.learning_rate=0\.00\d seed=\d +new", output)) == 6
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def sweep", "def sweeps", r"there is no function sweep\(\) in it"),
        ("seeds(8)", "[]", r"sweep\(\) returns no runs"),
        ("0.003", "-1.0", r"learning_rate=-1\.0 seed=0: .*learning_rate: -1\.0 is impossible"),
        ("optimizer.learning_rate", "optimizer.learning.rate", r"no sub-configuration"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(old, new, message, config_file, tmp_path):
    config_file.write_text(CONFIG.replace(old, new))
    scope: dict = {}
    exec(config_file.read_text(), scope)
    with pytest.raises(UserError, match=message):
        sweep.prepare(sweep.configurations(scope["get_config"](), config_file), None)


def test_help_explains_the_flags():
    command = [sys.executable, "-m", "experiments.sweep", "--help"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for words in ("--launcher", "--parallel", "--cores", "--retries", "dry_run", "sweep()"):
        assert words in output


class _Dying:
    """A place where every worker ends at once."""

    parallel, advice = 2, "nothing"

    def __init__(self) -> None:
        self.started = 0

    def start(self, order, job):
        self.started += 1
        return self

    def running(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_workers_that_never_begin_are_not_started_for_ever(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "POLL", 0.0)
    launcher = _Dying()
    with pytest.raises(UserError, match="workers ended before they took a run; see nothing"):
        sweep.execute([tiny], tmp_path, launcher=launcher, console=Console(file=io.StringIO()))
    assert launcher.started == sweep.MOST_FALSE_STARTS


def _order(folder: Path, failures: int = 1) -> Path:
    path = folder.parent / ".workers" / "order.json"
    worker.Order(str(folder.parent), [[folder.name]], {folder.name: failures}, "").write(path)
    return path


def test_a_run_over_which_every_worker_dies_is_given_up(tiny, tmp_path):
    folder = tmp_path / "run"
    records.claim(folder, tiny)
    order = _order(folder)
    for _ in range(worker.MOST_DEATHS):
        claim = claims.Claim.take(folder, "doomed", 0)
        content = json.loads(claim.attempt.path.read_text())
        content["worker"]["created"] -= 100  # as if the process were gone
        claim.attempt.path.write_text(json.dumps(content))
    worker.work(order, "next")
    assert claims.attempts(folder)[-1].outcome == "failed"
    assert "3 workers died over this run, after step 0" in (folder / "error.txt").read_text()
    status = board.look(folder, 1)
    assert status.state == "failed"
    assert "3 workers died" in status.error


def test_the_view_names_each_run_with_its_own_state(tiny, tmp_path):
    """The order of the runs is that of the list, not that of their names."""
    configs = []
    for seed in range(4):
        configs.append(tiny.copy_and_resolve_references())
        configs[-1].seed = seed
    folders = [tmp_path / runs.identity(config) for config in configs]
    assert [f.name for f in folders] != sorted(f.name for f in folders)
    for config, folder in zip(configs, folders, strict=True):
        records.claim(folder, config)
    records.write_json(folders[2] / "summary.json", {"test_accuracy": 0.625})
    (folders[1] / "checkpoints").touch()  # so it fails
    text = io.StringIO()
    launcher = launchers.local(1)
    results = sweep.execute(
        configs, tmp_path, launcher=launcher, console=Console(file=text, width=200)
    )
    launcher.close()
    assert [run.state for run in results] == ["finished", "failed", "finished", "finished"]
    assert re.search(r"finished  rigl seed=2  accuracy 62\.50%", text.getvalue())
    assert re.search(r"failed    rigl seed=1  \w+Error: ", text.getvalue())


def test_a_terminal_sees_a_table_of_the_runs():
    console = Console(file=io.StringIO(), width=120, height=40, force_terminal=True)
    view = board.Board(["rigl seed=0", "rigl seed=1", "gmp"], console)
    status = board.Status("running", "a-1", 200, 1000, 0.875, "", "")
    waiting = board.Status("waiting", None, 0, 1000, None, "", "")
    failed = board.Status("failed", None, 3, 1000, None, "", "ValueError: no")
    view.show([status, waiting, failed])
    view.show([status._replace(step=400), waiting, failed])
    view.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    for words in ("rigl seed=0", "400 of 1,000", "87.50%", "ValueError: no", "3 runs: 1 running"):
        assert words in text
    assert re.search(r"\d:\d\d", text)  # the remaining time
