"""What a report shows, against the runs that it was made from."""

import json
import statistics

import pytest

from experiments import records, report_data
from experiments.errors import UserError
from tests.experiments.conftest import write_run

RIGL = {"name": "rigl", "sparsity": 0.9, "period": 10}


def collect(root):
    """The data as the page reads it."""
    return json.loads(json.dumps(report_data.collect(root), allow_nan=False))


def by_name(data):
    return {run["name"]: run for run in data["runs"]}


def test_methods_settings_and_statistics(tmp_path):
    accuracies = {0.8: [0.95, 0.96, 0.98], 0.9: [0.9, 0.92, 0.91]}
    for sparsity, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            rule = RIGL | {"sparsity": sparsity}
            write_run(tmp_path / f"r{sparsity}-{seed}", rule, seed, accuracy=accuracy)
    write_run(tmp_path / "static", {"name": "static"}, 0, accuracy=0.85)
    write_run(tmp_path / "dense", None, 0, accuracy=0.97)
    data = collect(tmp_path)
    # The period tells runs of different rules apart, not those of one.
    assert data["methods"] == ["dense", "rigl", "static"]
    assert data["levels"] == ["80 %", "90 %"]
    assert data["differing"] == ["rule.name", "rule.period", "rule.sparsity", "seed"]
    assert data["shared"] == [["steps", 500]]
    assert data["states"] == {"finished": 8, "failed": 0, "started": 0}
    assert [run["name"] for run in data["runs"]] == [
        "dense", "r0.8-0", "r0.8-1", "r0.8-2", "r0.9-0", "r0.9-1", "r0.9-2", "static"
    ]  # fmt: skip
    found = {(data["methods"][s["method"]], s["level"]): s for s in data["settings"]}
    assert found.keys() == {
        ("dense", None), ("rigl", "80 %"), ("rigl", "90 %"), ("static", "90 %")
    }  # fmt: skip
    for sparsity, values in accuracies.items():
        setting = found["rigl", f"{100 * sparsity:g} %"]
        assert setting["sparsity"] == sparsity
        assert setting["test"]["mean"] == pytest.approx(statistics.mean(values))
        assert setting["test"]["sd"] == pytest.approx(statistics.stdev(values))
        assert setting["test"]["n"] == 3
        assert setting["flops"]["mean"] == pytest.approx(2000 * (1 - sparsity), rel=1e-9)
        assert setting["flops"]["sd"] == pytest.approx(0, abs=1e-9)
        assert setting["steps"] == [100, 200, 300, 400, 500]
        expected = [statistics.mean(values) * (1 - 0.5 ** (i + 1)) for i in range(5)]
        assert setting["accuracy"]["mean"] == pytest.approx(expected, rel=1e-3)
        assert len(setting["accuracy"]["runs"]) == 3
        assert setting["churn"]["mean"] == pytest.approx([0.5**i for i in range(2, 7)], rel=1e-3)
        assert setting["explored"]["mean"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
        assert [name for name, _ in setting["layers"]] == [
            "Dense_0/kernel", "Dense_2/kernel", "Dense_10/kernel"
        ]  # fmt: skip
        assert setting["layers"][1][1] == [0.5]  # it does not change: once
    assert found["static", "90 %"]["test"] == {"mean": 0.85, "sd": None, "n": 1}
    assert "churn" not in found["dense", None]


def test_methods_of_one_rule_are_named_by_what_differs(tmp_path):
    write_run(tmp_path / "a", RIGL, 0, accuracy=0.9)
    write_run(tmp_path / "b", RIGL | {"distribution": {"name": "uniform"}}, 0, accuracy=0.8)
    write_run(tmp_path / "c", RIGL | {"period": 20}, 0, accuracy=0.7, steps=7)
    assert set(collect(tmp_path)["methods"]) == {
        "rigl · period=10 · steps=500",
        "rigl · distribution=uniform · period=10 · steps=500",
        "rigl · period=20 · steps=7",
    }


def test_failed_and_unfinished_runs_are_listed_and_not_averaged(tmp_path):
    write_run(tmp_path / "whole", RIGL, 0, accuracy=0.9)
    write_run(tmp_path / "failed", RIGL, 1, accuracy=0.1, error="Traceback\nValueError: no\n")
    write_run(tmp_path / "running", RIGL, 2, accuracy=None)
    (tmp_path / "claimed").mkdir()
    records.write_json(tmp_path / "claimed/config.json", {"rule": RIGL, "seed": 3, "steps": 500})
    data = collect(tmp_path)
    runs = by_name(data)
    assert data["states"] == {"finished": 1, "failed": 1, "started": 2}
    assert {name: run["state"] for name, run in runs.items()} == {
        "whole": "finished", "failed": "failed", "running": "started", "claimed": "started"
    }  # fmt: skip
    assert runs["failed"]["error"] == "Traceback\nValueError: no\n"
    assert runs["failed"]["step"] == 100
    assert runs["running"]["test"] is None
    assert runs["running"]["validation"] == pytest.approx(0.5 * (1 - 0.5**5))
    assert runs["running"]["sparsity"] == 0.9
    assert runs["claimed"]["step"] == 0
    (setting,) = data["settings"]
    assert setting["test"] == {"mean": 0.9, "sd": None, "n": 1}
    assert setting["accuracy"]["runs"][0][1:] == [None] * 4  # the failed one, after its first


def test_no_finished_run_at_all(tmp_path):
    write_run(tmp_path / "a", RIGL, 0, accuracy=None, error="a")
    write_run(tmp_path / "b", {"name": "magnitude_pruning", "threshold": 0.1}, 0, accuracy=None)
    data = collect(tmp_path)
    assert [s["test"]["mean"] for s in data["settings"]] == [None, None]
    assert data["levels"] == ["90 %"]


def test_what_is_not_finite_is_left_out(tmp_path):
    write_run(tmp_path / "a", RIGL, 0, accuracy=0.9, limit=float("inf"))
    path = tmp_path / "a" / "summary.json"
    summary = json.loads(path.read_text()) | {"test_accuracy": float("nan")}
    path.write_text(json.dumps(summary))
    path = tmp_path / "a" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"accuracy": 0.45,', '"accuracy": NaN,'))
    data = collect(tmp_path)
    assert data["runs"][0]["test"] is None
    assert data["settings"][0]["test"] == {"mean": None, "sd": None, "n": 0}
    assert data["settings"][0]["accuracy"]["mean"][0] is None
    assert ["limit", "Infinity"] in data["shared"]


def test_a_single_run_may_be_the_folder_itself(tmp_path):
    write_run(tmp_path / "run", RIGL, 0, accuracy=0.9)
    data = collect(tmp_path / "run")
    assert (data["title"], data["runs"][0]["name"], data["differing"]) == ("run", "run", [])


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    write_run(tmp_path / "a", RIGL, 0, accuracy=0.9, evaluations=1000)
    setting = collect(tmp_path)["settings"][0]
    assert len(setting["steps"]) == len(setting["accuracy"]["mean"]) == report_data.CURVE_POINTS
    assert (setting["steps"][0], setting["steps"][-1]) == (100, 100_000)
    assert setting["steps"] == sorted(set(setting["steps"]))


def test_stages_are_settings_of_their_own(tmp_path):
    """A procedure in stages: a folder for each within its own, and an entry in its summary."""
    for seed in (0, 1):
        top, stages = tmp_path / f"lottery{seed}", {}
        for name, kind, sparsity in (
            ("round-00/dense", "dense", 0.0),
            ("round-01/rewound", "rewound", 0.2),
            ("round-02/rewound", "rewound", 0.36),
            ("round-02/shuffled", "shuffled", 0.36),
        ):
            write_run(
                top / name, {"name": "x", "sparsity": sparsity}, seed, accuracy=0.9 + seed / 50
            )
            stages[name] = {"round": int(name[6:8]), "kind": kind}
        records.write_json(top / "config.json", {"seed": seed, "rule": None})
        records.write_json(top / "summary.json", {"test_accuracy": 0.5, "stages": stages})
    data = collect(tmp_path)
    assert data["methods"] == ["dense", "rewound", "shuffled"]
    assert data["differing"] == ["seed"]
    assert len(data["runs"]) == 8
    assert by_name(data)["lottery0/round-02/shuffled"]["test"] == 0.9
    found = {(data["methods"][s["method"]], s["level"]): s["test"] for s in data["settings"]}
    assert found.keys() == {
        ("dense", None), ("rewound", "20 %"), ("rewound", "36 %"), ("shuffled", "36 %")
    }  # fmt: skip
    assert all(test["n"] == 2 for test in found.values())


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no run in it"):
        report_data.collect(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        report_data.collect(tmp_path / "absent")
