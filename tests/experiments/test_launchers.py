"""Each launcher with real workers; one is killed in the middle, one preempted; nothing is lost."""

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments import claims, launchers, runs, sweep
from experiments.config import default
from experiments.errors import UserError
from experiments.train import train
from experiments.worker import Order

PATIENCE = 180  # seconds until a sweep that makes no progress fails the test
LONG = 150  # steps of a run that is still going on when something happens to it
# Who starts it again does not know where it ran; each takes half a minute.
KILLED = ["local", *(pytest.param(name, marks=pytest.mark.full) for name in ("submitit", "ray"))]


def _launcher(name: str) -> launchers.Launcher:
    if name == "submitit":
        return launchers.submitit(1, cluster="local", options={"timeout_min": 5})
    return getattr(launchers, name)(1)


def _config(seed: int, steps: int) -> ConfigDict:
    config = default()
    config.model.widths = ()
    config.seed = seed
    config.batch_size, config.steps = 8, steps
    config.steps_per_dispatch, config.log_every, config.eval_every = 1, 1, 5
    return config


def _wait_until(holds, thread) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert thread.is_alive(), "the sweep is over"
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", KILLED)
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(name, tmp_path):
    """The long run's worker is killed; another one goes on and does the short run too."""
    configs = [_config(0, LONG), _config(1, 5)]
    folders = [tmp_path / runs.identity(config) for config in configs]
    launcher = _launcher(name)
    results: list = []

    def run():
        results.extend(
            sweep.execute(configs, tmp_path, launcher=launcher, console=Console(file=io.StringIO()))
        )

    thread = threading.Thread(target=run)
    try:
        thread.start()
        _wait_until((folders[0] / "checkpoints" / "20").exists, thread)
        os.kill(claims.holder(folders[0]).worker["pid"], signal.SIGKILL)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        launcher.close()

    assert [run.state for run in results] == ["finished", "finished"]
    first, second = (claims.attempts(folder) for folder in folders)
    assert [attempt.outcome for attempt in first] == [None, "finished"]
    assert first[1].step >= 20
    assert [attempt.outcome for attempt in second] == ["finished"]
    assert "Continues after step" in (folders[0] / "log.txt").read_text()
    steps = [line["step"] for line in results[0].history if line["kind"] == "train"]
    assert steps == list(range(1, LONG + 1))
    alone = train(configs[1], tmp_path / "alone", console=Console(file=io.StringIO()))
    assert results[1].history == alone.history


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_trains_a_run(tmp_path):
    launcher = _launcher("ray")
    try:
        [run] = sweep.execute(
            [_config(1, 5)], tmp_path, launcher=launcher, console=Console(file=io.StringIO())
        )
    finally:
        launcher.close()
    assert run.state == "finished"
    [attempt] = claims.attempts(run.path)
    assert attempt.outcome == "finished"
    assert attempt.worker["pid"] != os.getpid()


def test_a_preempted_job_of_slurm_is_queued_again(tmp_path):
    """By the signal that Submitit asks Slurm for; here to its local stand-in."""
    config = _config(0, LONG)
    folder = tmp_path / runs.identity(config)
    launcher = _launcher("submitit")
    results: list = []
    starts: list = []

    class Counting:
        parallel, advice = 1, launcher.advice

        def start(self, order: Path, job: str) -> launchers.Job:
            starts.append(job)
            return launcher.start(order, job)

    def run():
        console = Console(file=io.StringIO())
        results.extend(sweep.execute([config], tmp_path, launcher=Counting(), console=console))

    thread = threading.Thread(target=run)
    thread.start()
    _wait_until((folder / "checkpoints" / "20").exists, thread)
    os.kill(claims.holder(folder).worker["pid"], signal.SIGUSR2)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [run.state for run in results] == ["finished"]
    assert [attempt.outcome for attempt in claims.attempts(folder)] == ["stopped", "finished"]
    assert len(starts) == 1  # the same job, not another one


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: launchers.local(0), "--parallel: 0 is impossible; allowed: at least 1"),
        (lambda: launchers.local(cores=0), "--cores: 0 is impossible; allowed: at least 1"),
        (lambda: launchers.local(gpus=-1), "--gpus: -1 is impossible; allowed: at least 0"),
        (lambda: launchers.local(gpus=1), "--gpus: 1 are asked for each worker, this machine has"),
        (lambda: launchers.submitit(1), "there is no srun; start the sweep where Slurm is"),
    ],
)
def test_what_there_is_not_is_refused(make, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_a_missing_library_names_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UserError, match=rf"pip install 'sparsejax\[{name}\]'"):
        _launcher(name)


def test_each_local_worker_has_threads_and_devices_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    launcher = launchers.local(2, cores=3, gpus=2)
    order = tmp_path / "order.json"
    Order(str(tmp_path), [], {}, "").write(order)
    jobs = [launcher.start(order, name) for name in ("a", "b")]
    there = [psutil.Process(job.process.pid).environ() for job in jobs]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in there] == ["4,5", "6,7"]
    assert [environment["NPROC"] for environment in there] == ["3", "3"]
    launcher.close()
    assert not any(job.running() for job in jobs)


def test_workers_are_as_many_as_there_is_room_for(monkeypatch):
    monkeypatch.setattr(launchers, "_cores", lambda: list(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert launchers.local().parallel == 8
    assert launchers.local(cores=3).parallel == 2
    assert launchers.local(gpus=2).parallel == 2
    assert launchers.local(16).parallel == 16
    with pytest.raises(UserError, match="--parallel: 3 workers with 2 GPUs each are impossible"):
        launchers.local(3, gpus=2)
