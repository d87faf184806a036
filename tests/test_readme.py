"""The README's examples run as they stand there."""

import contextlib
import io
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import sparsejax
from experiments import methods
from experiments.errors import UserError

README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_composition():
    code = _blocks()[0]
    assert len([line for line in code.splitlines() if line]) == 15
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), names := {})
    assert "Kept(kept=205, total=2048)" in output.getvalue()
    kernel = names["params"]["kernel"]
    assert int((kernel != 0).sum()) == 205


def test_a_sweep():
    exec(compile(_blocks()[1], "README.md", "exec"), names := {})
    runs = names["sweep"]()
    assert len(runs) == 9
    assert runs[0] == {"rule": None, "seed": 0}
    assert runs[-1] == {"rule.sparsity": 0.95, "seed": 2}


def test_packed_training():
    exec(compile(_blocks()[2], "README.md", "exec"), names := {})
    state = names["state"]
    assert state.values["kernel"].shape == (205,)
    assert int((state.params()["kernel"] != 0).sum()) == int(state.masks()["kernel"].sum()) == 205


def test_a_rule_of_ones_own():
    exec(compile(_blocks()[3], "README.md", "exec"), names := {})
    rule = names["prune_by_age"](0.5, period=1)
    params = {"w": jnp.ones((2, 2))}
    grads = {"w": jnp.array([[3.0, 1.0], [2.0, 4.0]])}
    _, state = jax.jit(rule.update)(grads, rule.init(params), params)
    assert sparsejax.get_masks(state)["w"].tolist() == [[False, True], [True, False]]


def test_the_table_of_methods_is_that_of_the_docstrings():
    text = README.read_text()
    assert methods.replaced(text) == text, "run: python -m experiments.methods README.md"
    listed = {method.name.rpartition(".")[2] for method in methods.methods()}
    public = {
        name
        for name in sparsejax.__all__
        if getattr(getattr(sparsejax, name), "__module__", "").startswith("sparsejax.algorithms.")
    }
    assert public <= listed
    assert {"grasp", "l0", "sparsegpt"} <= listed


def test_a_table_without_marks_is_refused():
    with pytest.raises(UserError, match="marks"):
        methods.replaced("# A text")
