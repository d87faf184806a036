"""Runs as they are found on the disk."""

from experiments import records, runs


def test_find_lists_every_run_with_its_state_and_none_of_what_lies_within_one(tmp_path):
    for name in ("b", "a", "group/c", "a/stage"):
        (tmp_path / name).mkdir(parents=True)
        records.write_json(tmp_path / name / "config.json", {"seed": 0})
    records.write_json(tmp_path / "a" / "summary.json", {"test_accuracy": 0.5})
    (tmp_path / "b" / "error.txt").write_text("Traceback")
    (tmp_path / "group/c/metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n{"step": 2')
    found = {run.path.relative_to(tmp_path).as_posix(): run for run in runs.find(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "a": "finished",
        "b": "failed",
        "group/c": "started",
    }
    assert list(found) == ["a", "b", "group/c"]
    assert found["a"].summary == {"test_accuracy": 0.5}
    assert found["b"].error == "Traceback"
    assert found["group/c"].history == [{"step": 1, "kind": "train"}]
