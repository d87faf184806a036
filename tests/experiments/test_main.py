"""The command in processes of its own: its messages, its exit codes, and what it survives."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import sparsejax
from experiments.checkpoint import digest
from experiments.train import Result, train

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds until a process that makes no progress fails the test
CONFIG = """
from ml_collections import ConfigDict

from experiments.config import default


def get_config():
    config = default()
    config.model.widths = ()
    config.steps, config.log_every, config.eval_every = 200, 5, 10
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.9, "period": 7, "end": 150})
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.py"
    path.write_text(CONFIG)
    return path


def _start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.main", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(*arguments) -> tuple[int, str]:
    process = _start(*arguments)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def _saved(workdir) -> list[int]:
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def _wait_until(holds, process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds() and process.poll() is None:
        assert time.monotonic() < deadline, "the process makes no progress"
        time.sleep(0.01)


# What is found once jax has started is one error to the command, whatever the message.
_late = functools.partial(pytest.param, marks=pytest.mark.full)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.rule.sparsity=1.5"],
            r"config\.rule\.sparsity: 1\.5 is impossible; allowed: in",
        ),
        _late(
            ["--config.rule.name=rigll"],
            r"config\.rule\.name: 'rigll' is unknown; allowed: .*gmp, ",
        ),
        _late(["--config.rule.scor=magnitude"], r"config\.rule\.scor: rigl has no such argument"),
        _late(["--config.stepz=3"], r"config\.stepz: unknown key; allowed: batch_size, "),
        (["--config.optimzer.learning_rate=1"], r"optimzer"),
        (["--config.steps=many"], r"config\.steps=many: invalid literal for int"),
        _late(
            ["--config.data.name=mnist", "--data_dir=/nowhere"], "/nowhere/mnist/train-images-idx3"
        ),
        (["--nonsense=1"], "Unknown command line flag 'nonsense'"),
        (["nonsense"], "unexpected arguments: nonsense"),
    ],
)
def test_a_mistake_ends_with_a_message(arguments, message, config_file, tmp_path):
    workdir = tmp_path / "run"
    code, output = _run("--config", config_file, "--workdir", workdir, *arguments)
    assert code == 1
    assert re.search(message, output), output
    assert "Traceback" not in output
    assert not workdir.exists()


def test_a_config_file_that_is_missing_is_named(tmp_path):
    for more in ([], ["--config.seed=3"]):
        code, output = _run("--config", tmp_path / "none.py", "--workdir", tmp_path / "run", *more)
        assert code == 1
        assert re.search(r"the configuration file cannot be read: .*none\.py", output), output
        assert "Traceback" not in output


def test_help_explains_the_flags():
    _, output = _run("--help")
    for words in (
        "--config",
        "--workdir",
        "--data_dir",
        "$SPARSEJAX_DATA",
        "SIGTERM",
        "--config.s",
    ):
        assert words in output


def _result(workdir, config_file) -> Result:
    """The result of a finished run."""
    scope: dict = {}
    exec(config_file.read_text(), scope)
    return train(scope["get_config"](), workdir)


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory) -> tuple[Path, Result, str]:
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    code, output = _run("--config", config_file, "--workdir", workdir)
    assert code == 0, output
    return workdir, _result(workdir, config_file), output


def _assert_same(workdir, config_file, whole):
    whole_workdir, expected, _ = whole
    result = _result(workdir, config_file)
    assert (workdir / "metrics.jsonl").read_bytes() == (
        whole_workdir / "metrics.jsonl"
    ).read_bytes()
    assert digest(result.state) == digest(expected.state)
    for get in (lambda r: r.state.params, lambda r: sparsejax.get_masks(r.state.opt_state)):
        jax.tree.map(np.testing.assert_array_equal, get(result), get(expected))
    times = {"seconds", "steps_per_second"}
    assert {k: v for k, v in result.summary.items() if k not in times} == {
        k: v for k, v in expected.summary.items() if k not in times
    }


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(config_file, whole, tmp_path):
    seed = random.randrange(2**32)
    print(f"random seed {seed}")
    rng = random.Random(seed)
    workdir = tmp_path / "run"
    arguments = ("--config", config_file, "--workdir", workdir)
    continued, kills = [], 0
    for attempt in range(12):
        process = _start(*arguments)
        if kills < 2:
            before = _saved(workdir)[-1:]
            if attempt:  # the first is killed anywhere, the others when they have got somewhere
                _wait_until(lambda before=before: _saved(workdir)[-1:] != before, process)
            else:
                _wait_until((workdir / "config.json").exists, process)
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
        kills += process.returncode == -signal.SIGKILL
        continued += re.findall(r"Continues after step (\d+)", output)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output
    print(f"{kills} kills; continued after steps {continued}")
    assert process.returncode == 0
    assert kills >= 2
    assert continued
    _assert_same(workdir, config_file, whole)


def test_sigterm_saves_and_exits_cleanly(config_file, whole, tmp_path):
    workdir = tmp_path / "run"
    arguments = ("--config", config_file, "--workdir", workdir)
    process = _start(*arguments)
    _wait_until(lambda: _saved(workdir), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    [step] = re.findall(r"Stopped after step (\d+)", output)
    assert _saved(workdir)[-1] == int(step) < 200
    assert not (workdir / "summary.json").exists()

    code, output = _run(*arguments)
    assert code == 0, output
    assert f"Continues after step {step}" in output
    _assert_same(workdir, config_file, whole)


def test_a_finished_run_and_another_config(config_file, whole):
    workdir, result, output = whole
    assert f"Test accuracy {result.summary['test_accuracy']:.2%}" in output
    code, output = _run("--config", config_file, "--workdir", workdir)
    assert code == 0
    assert "This run is finished" in output
    code, output = _run("--config", config_file, "--workdir", workdir, "--config.seed=1")
    assert code == 1
    assert "config.seed: 0 there, 1 now" in output
    assert "Traceback" not in output
