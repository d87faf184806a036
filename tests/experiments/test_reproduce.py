"""What `experiments.reproduce` trains, computes, shows and writes; runs are simulated but for two
tests, which train on the digits for a moment."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from experiments import build, comparison, papers, records, reproduce, results, runs
from experiments.at_initialization import Task
from experiments.comparison import Comparison, judged
from experiments.config import check
from experiments.data import generated
from experiments.errors import UserError
from experiments.published import Published, accuracy_percent, error_percent

ROOT = Path(__file__).parents[2]
CONFIG = """
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.config import default
from experiments.published import Published, accuracy_percent, error_percent

PAPER = "tiny2020"


def get_config():
    config = default()
    config.model.widths = (4,)
    config.rule = ConfigDict({"name": "static", "sparsity": 0.8})
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 4, 2, 4
    return config


def sweep():
    return [{"rule.sparsity": s, "seed": 0} for s in (0.8, 0.9)]


PUBLISHED = (
    Published("dense", error_percent, "% error", "Table 1", value=80.0, tolerance=12.0,
              overrides={"rule": None}, minutes=6.0),
    Published("static 80 %", accuracy_percent, "% accuracy", "Section 2 | 3",
              claim="better than guessing", low=5.0),
    Published("huge", error_percent, "% error", "Table 2", value=1.0, tolerance=0.1,
              overrides={"rule.sparsity": 0.95}, not_run="needs a GPU"),
)


def draw(found):
    figure = Figure()
    sparsities = [run.config["rule"]["sparsity"] if run.config["rule"] else 0.0 for run in found]
    figure.gca().plot(sparsities, [run.summary["test_accuracy"] for run in found], "o")
    figure.gca().set_title(f"{len(found)} runs")
    return figure


FIGURES = {"a_figure": draw}
"""
OTHER = """
from experiments.config import default

PAPER = "other1999"
PUBLISHED = "Nothing that fits on a computer."


def get_config():
    return default()
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the configuration files of two papers, and a file of none."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "tiny.py").write_text(CONFIG)
    (folder / "other.py").write_text(OTHER)
    (folder / "base.py").write_text("def helper(): ...\n")
    return folder


@pytest.fixture
def parts(folder):
    return papers.find(folder)["tiny2020"]


class Simulated:
    """Executes runs by writing what a run leaves, with accuracies that hang on seed and rule."""

    def __init__(self, fail=lambda config: False, unfinished=lambda config: False):
        self.fail, self.unfinished, self.trained = fail, unfinished, []

    @staticmethod
    def accuracy(config) -> float:
        sparsity = config["rule"]["sparsity"] if config["rule"] else 0.0
        return 0.3 - 0.1 * sparsity + 0.01 * config["seed"] ** 2

    def __call__(self, configs, root):
        for config in configs:
            path = root / runs.identity(config)
            if (path / "summary.json").exists():
                continue
            self.trained.append(path.name)
            records.claim(path, config)
            if self.fail(config):
                (path / "error.txt").write_text("Traceback\nMemoryError: /home/somebody/x\n")
            elif not self.unfinished(config):
                (path / "error.txt").unlink(missing_ok=True)
                summary = {"test_accuracy": self.accuracy(config), "seconds": 30.0}
                records.write_json(path / "summary.json", summary)
        return [runs.read(root / runs.identity(config)) for config in configs]


def _text(renderable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def _by_row(outcome) -> dict[str, Comparison]:
    return {c.published.row: c for c in outcome.comparisons}


def test_the_numbers_are_those_of_plain_numpy(parts, tmp_path):
    outcome = reproduce.reproduce(parts, tmp_path / "runs", seeds=4, execute=Simulated())
    rows = _by_row(outcome)
    errors = [100 * (1 - 0.3 - 0.01 * seed**2) for seed in range(4)]
    dense = rows["dense"]
    np.testing.assert_allclose([*dense.values.values()], errors, rtol=1e-12)
    assert list(dense.values) == [0, 1, 2, 3]
    assert dense.mean == pytest.approx(np.mean(errors))
    assert dense.deviation == pytest.approx(np.sqrt(np.var(errors) * 4 / 3))
    assert dense.difference == pytest.approx(np.mean(errors) - 80)
    assert math.isnan(rows["huge"].mean)
    text = _text(comparison.table("tiny2020", outcome.comparisons))
    assert f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}" in text
    assert f"{np.mean(errors) - 80:+.2f}" in text
    assert "not run: needs a GPU" in text
    assert "better than guessing" in text


def test_one_seed_has_no_deviation(parts, tmp_path):
    outcome = reproduce.reproduce(parts, tmp_path, seeds=1, execute=Simulated())
    dense = _by_row(outcome)["dense"]
    assert math.isnan(dense.deviation)
    assert comparison.cells(dense)[2] == "70.00"


@pytest.mark.parametrize(
    ("mean", "lower", "expected"),
    [
        (2.0, True, "yes"),
        (2.3, True, "yes"),  # 2.3 - 2.0 exceeds 0.3 in binary
        (1.7, True, "yes"),
        (2.31, True, "no"),
        (1.69, True, "better"),
        (2.31, False, "better"),
        (1.69, False, "no"),
        (math.nan, True, "no"),
        (math.nan, False, "no"),
    ],
)
def test_what_lies_within_the_tolerance(mean, lower, expected):
    row = Published("r", len, "%", "T", value=2.0, tolerance=0.3, lower_is_better=lower)
    assert judged(row, mean) == expected


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(1.0, "holds"), (2.0, "holds"), (0.99, "does not hold"), (2.01, "does not hold"),
     (math.nan, "does not hold")],
)  # fmt: skip
def test_a_claim_holds_between_its_bounds(mean, expected):
    assert judged(Published("r", len, "%", "T", claim="it works", low=1, high=2), mean) == expected


def test_failed_and_unfinished_runs_are_told(parts, tmp_path):
    execute = Simulated(
        fail=lambda c: c.rule is None and c.seed == 1,
        unfinished=lambda c: c.rule is not None and c.seed == 2,
    )
    rows = _by_row(reproduce.reproduce(parts, tmp_path, seeds=3, execute=execute))
    assert rows["dense"].verdict == "yes (1 failed of 3 runs)"
    assert list(rows["dense"].values) == [0, 2]
    assert rows["dense"].mean == pytest.approx(100 * (1 - np.mean([0.3, 0.34])))
    assert rows["static 80 %"].verdict == "holds (1 not finished of 3 runs)"
    execute = Simulated(fail=lambda c: c.rule is None, unfinished=lambda c: True)
    rows = _by_row(reproduce.reproduce(parts, tmp_path / "b", seeds=2, execute=execute))
    assert rows["dense"].verdict == "failed"
    assert rows["static 80 %"].verdict == "not finished"
    assert comparison.cells(rows["dense"])[2:5] == ("", "0", "")


def test_each_run_is_trained_once(parts, tmp_path):
    execute = Simulated()
    outcome = reproduce.reproduce(parts, tmp_path, seeds=2, execute=execute)
    # Two rows of two seeds, and 90 % for the figure; its 80 % is the row's.
    assert len(execute.trained) == len(set(execute.trained)) == 5
    assert len(outcome.executed) == 5
    reproduce.reproduce(parts, tmp_path, seeds=3, execute=execute)
    assert len(execute.trained) == len(set(execute.trained)) == 7


def test_the_figures_show_every_finished_run_of_the_file_once(parts, tmp_path):
    execute = Simulated(fail=lambda c: c.rule is None and c.seed == 0)
    outcome = reproduce.reproduce(parts, tmp_path, seeds=2, execute=execute)
    assert outcome.figures["a_figure"]().gca().get_title() == "4 runs"
    nothing = Simulated(unfinished=lambda c: True)
    assert not reproduce.reproduce(parts, tmp_path / "b", seeds=1, execute=nothing).figures


def test_only_trains_one_row_and_shows_what_there_is_of_others(parts, tmp_path):
    execute = Simulated()
    reproduce.reproduce(parts, tmp_path, seeds=1, execute=execute)
    execute.trained.clear()
    outcome = reproduce.reproduce(parts, tmp_path, seeds=1, only="huge", execute=execute)
    assert len(execute.trained) == 1
    rows = _by_row(outcome)
    assert rows["huge"].verdict == "no"
    assert rows["dense"].verdict == "yes"
    outcome = reproduce.reproduce(parts, tmp_path, seeds=2, execute=execute)
    assert _by_row(outcome)["huge"].verdict == "no (1 not finished of 2 runs)"
    outcome = reproduce.reproduce(parts, tmp_path / "b", seeds=1, only="dense", execute=execute)
    assert _by_row(outcome)["static 80 %"].verdict == "not run: not asked for"
    assert _by_row(outcome)["huge"].verdict == "not run: needs a GPU"


def test_a_measure_that_fails_names_row_and_file(parts, tmp_path):
    def execute(configs, root):
        Simulated()(configs, root)
        for config in configs:
            records.write_json(root / runs.identity(config) / "summary.json", {})
        return [runs.read(root / runs.identity(config)) for config in configs]

    outcome = reproduce.reproduce(parts, tmp_path, seeds=1, execute=execute)
    with pytest.raises(UserError, match=r"dense: .*summary\.json: KeyError: 'test_accuracy'"):
        comparison.table("x", outcome.comparisons)


def test_names_that_there_are_not_are_refused_with_those_that_there_are(folder):
    found = papers.find(folder)
    assert list(found) == ["other1999", "tiny2020"]
    with pytest.raises(UserError, match="'tiny' is unknown; there are: other1999, tiny2020"):
        reproduce.select(found, "tiny", None)
    with pytest.raises(UserError, match=r"no row 'Dense'; its rows are:\n  dense\n  static 80 %"):
        reproduce.select(found, "tiny2020", "Dense")


def test_two_rows_of_one_name_are_refused(folder):
    (folder / "again.py").write_text(CONFIG)
    with pytest.raises(UserError, match="tiny2020: more than one row is called 'dense'"):
        papers.find(folder)


def test_a_broken_file_is_named(folder):
    (folder / "broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(UserError, match=r"broken\.py: cannot be executed: ModuleNotFoundError"):
        papers.find(folder)


def test_the_overview_tells_rows_runs_minutes_and_reasons(folder):
    found = papers.find(folder)
    text = _text(reproduce.overview("tiny2020", found["tiny2020"], seeds=3, parallel=2))
    # Three runs of 6 minutes, three of 1, and one for the figure of 3.5, on two cores.
    assert "tiny2020: 7 runs, about 12 minutes" in text
    assert re.search(r"dense +80 % error +Table 1 +3 +9 ", text)
    assert re.search(r"huge +1 % error +Table 2 +0 +needs a GPU", text)
    assert re.search(r"the figures need +1 ", text)
    text = _text(reproduce.overview("other1999", found["other1999"], seeds=3, parallel=2))
    assert "Nothing that fits on a computer." in text


def test_a_section_is_replaced_and_the_others_stay(parts, tmp_path):
    file = tmp_path / "RESULTS.md"
    other = (
        "# Mine\n\nWords.\n\n<!-- reproduce z: begin -->\nz\n<!-- reproduce z: end -->\n\nEnd.\n"
    )
    file.write_text(other)
    outcome = reproduce.reproduce(parts, tmp_path / "runs", seeds=3, execute=Simulated())

    def write(command):
        figures = {"a_figure": outcome.figures["a_figure"]()}
        results.write(file, "tiny2020", command, outcome.comparisons, figures)
        return file.read_text()

    first = write("the first command")
    assert first.startswith(other)
    second = write("another command")
    assert second == first.replace("the first command", "another command")
    assert "Section 2 \\| 3" in second
    assert "| dense | 80 % error | 68.33 ± 2.08 | 3 | -11.67 | yes (±12) | Table 1 |" in second
    assert "| 70.00, 69.00, 66.00 |" in second
    assert "not run: needs a GPU" in second
    assert "4 minutes of training" in second or "3 minutes of training" in second
    assert "cores in use; jax " in second
    assert "![a figure](results/tiny2020_a_figure.svg)" in second
    svg = tmp_path / "results" / "tiny2020_a_figure.svg"
    assert svg.read_text().startswith("<?xml")
    drawn = svg.read_bytes()
    write("another command")
    assert svg.read_bytes() == drawn
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["RESULTS.md"]


def test_the_results_hold_no_error_and_no_path(parts, tmp_path):
    execute = Simulated(fail=lambda c: c.seed == 1)
    outcome = reproduce.reproduce(parts, tmp_path / "runs", seeds=2, execute=execute)
    results.write(tmp_path / "R.md", "tiny2020", "command", outcome.comparisons, {})
    text = (tmp_path / "R.md").read_text()
    assert "1 failed of 2 runs" in text
    assert str(tmp_path) not in text
    assert "/home/" not in text


def test_damaged_marks_are_refused_and_nothing_is_written(tmp_path):
    file = tmp_path / "R.md"
    file.write_text("<!-- reproduce a: begin -->\nno end\n")
    with pytest.raises(UserError, match="must occur once, in this order"):
        results.write(file, "a", "command", [], {"f": Figure()})
    assert file.read_text() == "<!-- reproduce a: begin -->\nno end\n"
    assert not (tmp_path / "results").exists()
    with pytest.raises(UserError, match="must occur once, in this order"):
        results.check(file, "reproduce a")
    results.check(file, "reproduce b")


def test_a_file_that_cannot_be_written_is_named_before_anything_is_trained(tmp_path):
    file = tmp_path / "nowhere" / "R.md"
    with pytest.raises(UserError, match=r"--results: .*nowhere: no such folder"):
        results.check(file, "reproduce a")
    with pytest.raises(UserError, match=r"--results: .*nowhere.*cannot be written"):
        results.write(file, "a", "command", [], {})


def test_the_revision_tells_changes_but_not_the_results_own(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.svg").write_text("")
    (tmp_path / "RESULTS.md").write_text("")
    file = tmp_path / "RESULTS.md"
    assert re.fullmatch("[0-9a-f]{7,}", results.revision(tmp_path, file))
    (tmp_path / "code.py").write_text("x = 2\n")
    assert re.fullmatch(r"[0-9a-f]{7,} \+ uncommitted changes", results.revision(tmp_path, file))
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.revision(tmp_path, file) == ""


def _command(*arguments, folder=papers.FOLDER) -> tuple[int, str]:
    program = (
        "import pathlib, runpy; from experiments import papers; "
        f"papers.find.__defaults__ = (pathlib.Path({str(folder)!r}),); "
        "runpy.run_module('experiments.reproduce', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"},
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_trains_what_is_not_there_and_writes_the_section(folder, tmp_path):
    file, root = tmp_path / "RESULTS.md", tmp_path / "runs"
    arguments = [
        *("--paper", "tiny2020", "--only=dense", "--seeds=1", "--parallel", "1"),
        *("--data_dir", tmp_path / "data", f"--workdir={root}", f"--results={file}"),
    ]
    code, output = _command(*arguments, folder=folder)
    assert code == 0, output
    (summary,) = root.rglob("summary.json")
    error = 100 * (1 - json.loads(summary.read_text())["test_accuracy"])
    first = file.read_text()
    for text in (output, first):
        assert f"{error:.2f}" in text
        assert "not run: needs a GPU" in text
    command = "python -m experiments.reproduce --only=dense --paper=tiny2020 --parallel=1 --seeds=1"
    assert f"\n    {command}\n" in first
    assert str(tmp_path) not in first
    before = summary.stat().st_mtime_ns
    code, output = _command(*arguments, folder=folder)
    assert code == 0, output
    assert summary.stat().st_mtime_ns == before
    assert file.read_text() == first


def test_the_command_lists_and_refuses():
    code, output = _command("--list")
    assert code == 0
    for name in ("evci2020", "lee2019", "zhu2017"):
        assert f"{name}: " in output
    code, output = _command("--paper=nobody1900")
    assert code == 1
    assert "error: --paper: 'nobody1900' is unknown; there are: " in output
    assert "Traceback" not in output
    code, output = _command()
    assert code == 1
    assert "error: --paper: name one of " in output
    code, output = _command("--help")
    assert "what was published beside what was measured" in output
    assert "--only" in output


# A name of one word is that of what several configurations share.
CONFIGS = sorted((ROOT / "configs").glob("*_*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_what_was_published(path):
    module = papers.load(path)
    published = module["PUBLISHED"]
    if isinstance(published, str):
        assert published
        return
    assert module["PAPER"] and published
    for row in published:
        assert row.source and row.unit and row.minutes > 0
        if row.value is None:
            assert row.claim and row.low <= row.high and (row.low, row.high) != (-np.inf, np.inf)
        else:
            assert row.tolerance >= 0
        if row.measure in (accuracy_percent, error_percent):
            good = row.measure({"test_accuracy": 0.99}) < row.measure({"test_accuracy": 0.9})
            assert row.lower_is_better == good


def test_every_row_can_be_built():
    """Each row's rule fits its network, at the real size."""
    shapes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "generated": (224, 224, 3)}
    shapes["tinyshakespeare"] = (128,)
    params, models, datasets = {}, {}, {"tinyshakespeare": None}
    for parts in papers.find().values():
        for part in parts:
            for row in part.rows:
                (config,) = part.runs(row, seeds=1)
                check(config)
                classes = config.data.get("classes", 10)
                name = config.data.name
                if name not in datasets:
                    sides = dict(zip(("height", "width", "channels"), shapes[name], strict=True))
                    datasets[name] = generated(**sides, classes=classes, train=128)
                key = json.dumps(config.model.to_dict()) + name
                if key not in params:
                    shape = shapes[name]
                    image = jnp.zeros((1, *shape), float if len(shape) == 3 else int)
                    models[key] = build.model(config, classes)
                    init = models[key].init
                    params[key] = jax.eval_shape(init, jax.random.key(0), image)["params"]
                task = Task(models[key], datasets[name], config.batch_size, config.seed)
                state = jax.eval_shape(build.optimizer(config, task).init, params[key])
                assert (config.rule is None) == (
                    not jax.tree.leaves(optax.tree.get(state, "masks"))
                )
