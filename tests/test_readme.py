"""The README's examples run as they stand there."""

import contextlib
import io
import pathlib
import re

import jax
import jax.numpy as jnp

import sparsejax

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


def test_a_rule_of_ones_own():
    exec(compile(_blocks()[2], "README.md", "exec"), names := {})
    rule = names["prune_by_age"](0.5, period=1)
    params = {"w": jnp.ones((2, 2))}
    grads = {"w": jnp.array([[3.0, 1.0], [2.0, 4.0]])}
    _, state = jax.jit(rule.update)(grads, rule.init(params), params)
    assert sparsejax.get_masks(state)["w"].tolist() == [[False, True], [True, False]]


def test_every_method_is_in_the_table():
    text = README.read_text()
    for name in sparsejax.__all__:
        module = getattr(getattr(sparsejax, name), "__module__", "")
        if module.startswith("sparsejax.algorithms."):
            assert f"`{name}`" in text
