"""Measurements of backends: made once, kept whole, and told honestly."""

import json
import os

import jax.numpy as jnp
import pytest

import sparsejax
from sparsejax import kernels
from sparsejax.kernels import tune


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sparsejax" / "kernels.json"


def test_a_layer_is_measured_once(cache, capsys, monkeypatch):
    kernels.explain()
    assert "Nothing has been measured" in capsys.readouterr().out
    first = kernels.autotune((64, 32), 0.1, 8, rounds=2)
    assert set(first.seconds) == set(kernels.BACKENDS) - {"pallas"}
    assert set(first.reasons) == {"pallas"}
    assert first.seconds[first.best] == min(first.seconds.values())
    assert first.speedup == first.baseline / first.seconds[first.best]
    assert os.listdir(cache.parent) == ["kernels.json"]

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(tune, "_measure", never)
    assert kernels.autotune((64, 32), 0.1, 8, rounds=2) == first
    for other in ((32, 64), 0.1, 8), ((64, 32), 0.2, 8), ((64, 32), 0.1, 9):
        with pytest.raises(AssertionError, match="measured again"):
            kernels.autotune(*other)
    with pytest.raises(AssertionError, match="measured again"):
        kernels.autotune((64, 32), 0.1, 8, structure=sparsejax.block((4, 4)))
    with pytest.raises(AssertionError, match="measured again"):
        kernels.autotune((64, 32), 0.1, 8, dtype=jnp.bfloat16)


def test_no_speed_up_is_called_so(cache, capsys, monkeypatch):
    slow = tune.Timing(
        "slow layer", 1e-3, {"dense": 2e-3, "cpu": 3e-3}, {"bcsr": "it is not there"}
    )
    fast = tune.Timing("fast layer", 6e-3, {"dense": 9e-3, "cpu": 2e-3, "bcsr": 8e-3}, {})
    here = f"; {tune.machine()}"
    cache.parent.mkdir()
    known = {"a" + here: slow._asdict(), "b" + here: fast._asdict(), "c; elsewhere": fast._asdict()}
    cache.write_text(json.dumps(known))
    kernels.explain()
    reason, header, *rows = capsys.readouterr().out.splitlines()
    assert reason.startswith("The backend 'pallas' does not work here: it needs a GPU")
    assert header.split() == ["layer", "dense", "product", "dense", "bcsr", "cpu", "pallas"]
    assert len(rows) == 2
    assert " ".join(rows[0].split()) == (
        "slow layer 1.000 ms 2.000 ms - 3.000 ms - no speed-up here"
    )
    assert rows[1].endswith("cpu is 3.0 x faster")
    monkeypatch.setattr(tune, "why_not", lambda backend, _: {"cpu": "no reason"}.get(backend))
    kernels.explain()
    assert "The backend 'cpu' does not work here: no reason." in capsys.readouterr().out


def test_a_damaged_cache_is_measured_anew(cache):
    cache.parent.mkdir()
    for damaged in "{", "[]", '{"a": 3}', '{"a": {"layer": 3}}':
        cache.write_text(damaged)
        assert tune._read() == {}
    kernels.autotune((8, 8), 0.5, 2, rounds=1)
    assert len(tune._read()) == 1
