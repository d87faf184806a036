"""The table of a sweep, from what its runs leave on the disk."""

import io

from rich.console import Console

from experiments import results, runs, standings
from tests.experiments.conftest import write_run

RIGL = {"name": "rigl", "period": 10}


def found(root):
    # As a sweep has them: by method, then sparsity, then seed.
    return sorted(runs.find(root), key=lambda run: int(run.path.name))


def make(root):
    listed = [
        (None, 0, {"accuracy": 0.98}),
        (None, 1, {"accuracy": 0.97}),
        (RIGL | {"sparsity": 0.95}, 0, {"accuracy": 0.9}),
        (RIGL | {"sparsity": 0.95}, 1, {"accuracy": 0.94}),
        (RIGL | {"sparsity": 0.9}, 0, {"accuracy": 0.95}),
        (RIGL | {"sparsity": 0.9}, 1, {"accuracy": None}),
        (RIGL | {"sparsity": 0.9, "period": 20}, 0, {"accuracy": 0.955}),
        ({"name": "gmp", "sparsity": 0.9}, 0, {"accuracy": None, "error": "died"}),
    ]
    for i, (rule, seed, result) in enumerate(listed):
        write_run(root / str(i), rule, seed, **result)


def test_methods_and_sparsities(tmp_path):
    make(tmp_path)
    headings, rows = standings.rows(standings.standings(found(tmp_path)))
    assert headings == ["method", "90 %", "95 %", "as it comes"]
    assert rows == [
        ["dense", "", "", "97.50 ± 0.71 at 0 %"],
        ["rigl period=10", "95.00 (1 of 2)", "92.00 ± 2.83", ""],
        ["rigl period=20", "95.50", "", ""],
        ["gmp", "not finished", "", ""],
    ]


def test_a_sparsity_that_was_missed_is_said():
    cell = standings.Cell((90.0, 92.0), (80.0, 84.0), 2)
    assert standings.rows({"str": {90.0: cell}})[1] == [["str", "91.00 ± 1.41 at 82 %"]]


def test_a_procedure_has_no_accuracy(tmp_path):
    make(tmp_path)
    run = found(tmp_path)[0]._replace(summary={"stages": {}})
    assert standings.rows(standings.standings([run]))[1] == [["dense", "not finished"]]


def test_the_terminal_and_the_file_show_the_same(tmp_path):
    make(tmp_path)
    table = standings.standings(found(tmp_path))
    console = Console(file=io.StringIO(), width=100)
    console.print(standings.table(table))
    shown = console.file.getvalue()
    file = tmp_path / "R.md"
    file.write_text("# Results\n\n<!-- reproduce a: begin -->\nkept\n<!-- reproduce a: end -->\n")
    for _ in range(2):  # the second time in place of the first
        results.write_sweep(
            file, "digits", "the command", "The remark.", *standings.rows(table), found(tmp_path)
        )
    text = file.read_text()
    assert text.count("<!-- sweep digits: begin -->") == 1
    assert "\nkept\n" in text
    assert "    the command\n" in text and "The remark." in text
    assert "| rigl period=10 | 95.00 (1 of 2) | 92.00 ± 2.83 |  |" in text
    assert "0 minutes of training in 6 runs" in text
    for cell in ("97.50 ± 0.71 at 0 %", "95.00 (1 of 2)", "not finished"):
        assert cell in shown and cell in text
