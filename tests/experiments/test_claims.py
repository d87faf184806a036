"""Claims: one worker at a time, the dead succeeded, the living never."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments import claims
from experiments.claims import Claim, attempts, holder

ROOT = Path(__file__).parents[2]
TAKE_AND_WAIT = """
import sys, time
from pathlib import Path
from experiments.claims import Claim
assert Claim.take(Path(sys.argv[1]), "other", 3)
print("taken", flush=True)
time.sleep(60)
"""


def _taken_elsewhere(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_WAIT, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "taken\n"
    process.stdout.close()
    return process


def test_a_run_is_taken_once_and_again_when_it_is_released(tmp_path):
    claim = Claim.take(tmp_path, "a", 0)
    assert claim.held()
    assert holder(tmp_path).job == "a"
    assert Claim.take(tmp_path, "b", 0) is None
    claim.release("stopped")
    assert holder(tmp_path) is None
    second = Claim.take(tmp_path, "b", 5)
    second.release("finished")
    assert [(a.number, a.job, a.step, a.outcome) for a in attempts(tmp_path)] == [
        (1, "a", 0, "stopped"), (2, "b", 5, "finished")
    ]  # fmt: skip
    assert not claim.held()


def test_what_is_withdrawn_was_never_taken(tmp_path):
    Claim.take(tmp_path, "a", 0).withdraw()
    assert attempts(tmp_path) == []
    assert Claim.take(tmp_path, "b", 0).attempt.number == 1


def test_of_many_that_take_at_once_one_succeeds(tmp_path):
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        barrier = threading.Barrier(8)

        def take(job, folder=folder, barrier=barrier):
            barrier.wait()
            return Claim.take(folder, str(job), 0)

        with ThreadPoolExecutor(8) as pool:
            taken = [claim for claim in pool.map(take, range(8)) if claim is not None]
        assert len(taken) == 1
        assert holder(folder).job == taken[0].attempt.job
        assert sorted(path.name for path in (folder / "attempts").iterdir()) == ["0001.json"]
        taken[0].release("stopped")


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_worker_that_was_killed_is_succeeded(tmp_path, reaped):
    process = _taken_elsewhere(tmp_path)
    assert holder(tmp_path).job == "other"
    assert Claim.take(tmp_path, "mine", 3) is None
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    deadline = time.monotonic() + 30
    while holder(tmp_path) is not None:  # a signal takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claim = Claim.take(tmp_path, "mine", 3)
    assert [(a.number, a.outcome) for a in attempts(tmp_path)] == [(1, None), (2, None)]
    claim.release("finished")
    process.wait()


def test_a_number_that_was_given_to_another_process_is_not_the_worker(tmp_path):
    claim = Claim.take(tmp_path, "a", 0)
    content = json.loads(claim.attempt.path.read_text())
    content["worker"]["created"] -= 100
    claim.attempt.path.write_text(json.dumps(content))
    assert holder(tmp_path) is None
    claim.release("stopped")


def test_a_worker_on_another_machine_is_dead_when_it_gives_no_sign(tmp_path, monkeypatch):
    claim = Claim.take(tmp_path, "far away", 0)
    path = claim.attempt.path
    content = json.loads(path.read_text())
    content["worker"] |= {"host": "elsewhere", "pid": 1}
    path.write_text(json.dumps(content))
    assert holder(tmp_path).job == "far away"
    old = time.time() - claims.STALE - 1
    os.utime(path, (old, old))
    assert holder(tmp_path) is None
    second = Claim.take(tmp_path, "near", 0)
    assert not claim.held()  # which is how the first one learns of it, if it only slept
    assert second.held()
    claim.release("stopped")
    assert holder(tmp_path).job == "near"
    second.release("finished")


def test_a_claim_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    claim = Claim.take(tmp_path, "a", 0)
    path = claim.attempt.path
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 30
    while path.stat().st_mtime < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claim.release("finished")
