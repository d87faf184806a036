"""The files of a run: whole or not at all, and cut back to the step that a run continues from."""

import json
import os

import pytest

from experiments import records
from experiments.config import default
from experiments.errors import UserError


def _write_lines(workdir, steps, tail=""):
    lines = [json.dumps({"step": step, "kind": "train", "loss": step / 3}) for step in steps]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)


def test_metrics_beyond_the_step_are_cut_off(tmp_path):
    _write_lines(tmp_path, [2, 4, 6, 8], tail='{"step": 10, "ki')
    metrics = records.Metrics(tmp_path, step=4)
    metrics.write({"step": 6, "kind": "train", "loss": 0.5})
    metrics.close()
    assert [line["step"] for line in metrics.history] == [2, 4, 6]
    assert records.read_metrics(tmp_path) == metrics.history
    assert records.read_metrics(tmp_path)[-1]["loss"] == 0.5


def test_a_line_that_was_cut_off_is_removed_even_if_it_parses(tmp_path):
    _write_lines(tmp_path, [2, 4])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-1])  # without its line's end
    metrics = records.Metrics(tmp_path, step=4)
    metrics.close()
    assert [line["step"] for line in records.read_metrics(tmp_path)] == [2]


def test_what_was_synced_is_on_the_disk(tmp_path):
    metrics = records.Metrics(tmp_path, step=0)
    metrics.write({"step": 2, "kind": "train", "loss": 1 / 3})
    metrics.sync()
    assert records.read_metrics(tmp_path) == [{"step": 2, "kind": "train", "loss": 1 / 3}]
    metrics.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_directory_is_claimed_once(tmp_path):
    config = default()
    workdir = tmp_path / "a" / "b"
    records.claim(workdir, config)
    records.claim(workdir, default())
    config.seed = 5
    config.optimizer.b1 = 0.8
    del config.optimizer.learning_rate
    with pytest.raises(UserError) as error:
        records.claim(workdir, config)
    assert str(error.value).splitlines()[1:] == [
        "  config.optimizer.b1: absent there, 0.8 now",
        "  config.optimizer.learning_rate: 0.001 there, absent now",
        "  config.seed: 0 there, 5 now",
    ]
    records.claim(workdir, default())  # the refusal changed nothing


def test_tuples_and_lists_are_the_same_configuration(tmp_path):
    config = default()
    config.model.widths = (3, 4)
    records.claim(tmp_path, config)
    records.claim(tmp_path, config)


def test_a_broken_config_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed"')
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        records.claim(tmp_path, default())


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    records.write_json(path, {"a": 1})

    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        records.write_json(path, {"a": 2})
    assert records.read_json(path) == {"a": 1}
