"""The demonstration, with few steps: it trains, and shows what was trained."""

import io
import json

import pytest
from matplotlib.image import imread
from rich.console import Console

from experiments import figures
from experiments.demo import configs, demo
from experiments.errors import UserError


def run(workdir, steps=40):
    console = Console(file=io.StringIO(), width=120)
    return demo(workdir, steps, console), console.file.getvalue()


def files(workdir):
    """Content of the runs' records."""
    names = ("dense/metrics.jsonl", "dense/summary.json", "rigl/metrics.jsonl", "rigl/summary.json")
    return [(workdir / name).read_text() for name in names]


def test_demo_trains_shows_and_reuses(tmp_path, monkeypatch):
    drawn = []
    picture = figures.picture
    monkeypatch.setattr(figures, "picture", lambda *args: (drawn.append(args), picture(*args)))
    workdir = tmp_path / "demo"
    (dense, rigl), text = run(workdir)

    weights = {"Dense_0/kernel": 19200, "Dense_1/kernel": 30000, "Dense_2/kernel": 1000}
    assert dense.weights == {path: (n, n) for path, n in weights.items()}
    assert {path: total for path, (_, total) in rigl.weights.items()} == weights
    kept = {path: n for path, (n, _) in rigl.weights.items()}
    assert sum(kept.values()) == 5020
    # By ERK the density of a matrix is proportional to (inputs + outputs) / (inputs * outputs).
    share = {"Dense_0/kernel": 364, "Dense_1/kernel": 400, "Dense_2/kernel": 110}
    for path, n in kept.items():
        assert n == pytest.approx(5020 * share[path] / sum(share.values()), abs=2)
    assert dense.forward == (100400, 100400)
    assert rigl.forward == (pytest.approx(2 * 5020), 100400)
    assert dense.training == (301200, 301200)
    assert rigl.training == (pytest.approx((10 * 3 * 10040 + 2 * 10040 + 100400) / 11), 301200)
    assert dense.nbytes == (4 * (50200 + 410), 4 * (50200 + 410))
    assert rigl.nbytes == (4 * (5020 + 410) + 50200 // 8, 4 * (50200 + 410))

    before = files(workdir)
    for result, summary in ((dense, before[1]), (rigl, before[3])):
        assert result.accuracy == json.loads(summary)["test_accuracy"]
        assert result.accuracy > 0.5  # after two dozen examples of each digit; chance is 0.1
        assert f"{result.accuracy:.2%}" in text
    assert "5,020" in text
    assert str(workdir / "demo.png") in text.replace("\n", "")

    (_, _, curves, images), *_ = drawn
    for curve, lines in zip(curves, (before[0], before[2]), strict=True):
        lines = [json.loads(line) for line in lines.splitlines()]
        accuracy = [line["accuracy"] for line in lines if line["kind"] == "validation"]
        assert curve.steps == list(range(2, 41, 2))
        assert curve.accuracy == accuracy
        assert accuracy[-1] > accuracy[0]
        assert curve.sparsity == pytest.approx([0.9 if curve.name == "RigL" else 0] * 20)
    start, end = images.values()
    assert start.shape == end.shape == (8, 8)
    assert start.sum() == end.sum() == kept["Dense_0/kernel"]
    assert (start != end).any()  # RigL moved connections
    assert imread(workdir / "demo.png").ndim == 3

    again, _ = run(workdir)
    assert again == [dense, rigl]
    assert files(workdir) == before
    with pytest.raises(UserError, match="steps"):
        run(workdir, steps=41)


@pytest.mark.parametrize("steps", [1, 19, 1000])
def test_runs_differ_in_the_rule_alone(steps):
    dense, rigl = (config.to_dict() for config in configs(steps).values())
    assert dense.pop("rule") is None
    assert rigl.pop("rule")["sparsity"] == 0.9
    assert dense == rigl
