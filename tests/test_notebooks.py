"""The notebooks: text and notebook are in step, and the text runs."""

import nbformat
import pytest

from notebooks.execute import execute, read, texts

TEXTS = {text.stem: text for text in texts()}


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def outputs(notebook):
    return [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]


def check_outputs(notebook):
    """Every cell ran, in order, and nothing was complained of; something is shown."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = outputs(notebook)
    assert {o.output_type for o in shown} <= {"stream", "display_data"}
    assert all(o.name == "stdout" for o in shown if o.output_type == "stream"), "stderr"
    assert any("image/png" in o.data for o in shown if o.output_type == "display_data")


def test_there_are_notebooks():
    assert set(TEXTS) >= {"quickstart", "reproduce_a_paper", "write_a_rule"}
    made = {path.stem for path in TEXTS["quickstart"].parent.glob("*.ipynb")}
    assert made == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_text_and_notebook_are_in_step(name):
    path = TEXTS[name].with_suffix(".ipynb")
    notebook, text = nbformat.read(path, as_version=4), read(TEXTS[name])
    assert cells(notebook) == cells(text), "edit the text, then: make notebooks"
    assert notebook.metadata == text.metadata
    check_outputs(notebook)
    written = path.read_text()
    assert not any(place in written for place in ("/home/", "/root/", "/tmp/", "/Users/"))
    assert len(written) < 250_000


@pytest.mark.parametrize("name", TEXTS)
def test_text_runs(name, tmp_path, monkeypatch):
    # Without the data sets that this machine may have.
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE", raising=False)  # theirs has no limit
    notebook = read(TEXTS[name])
    execute(notebook)
    check_outputs(notebook)
