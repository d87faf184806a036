"""Checkpoints: every bit comes back, damage is noticed, and the right ones are kept."""

import gc
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from experiments.checkpoint import Checkpoints, digest
from experiments.errors import UserError

# A restore that fails leaves reads of other arrays behind, which the event loop then abandons.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class _State(NamedTuple):
    params: Any
    opt_state: Any
    extra: Any


def _state(scale: float = 1.0) -> _State:
    params = {
        "kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) * scale,
        "half": jnp.array([jnp.nan, -0.0, 1 / 3], jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1)))
    extra = {
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8), 3),
        "masks": {"kernel": jnp.eye(3, 4, dtype=bool), "half": jnp.array(True)},
        "count": jnp.uint32(2**32 - 1),
        "empty": {},
    }
    return _State(params, optimizer.init(params), extra)


def _bits(tree) -> list[tuple[Any, bytes]]:
    leaves = jax.tree.leaves(tree)
    data = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves
    ]
    return [(x.dtype, np.asarray(d).tobytes()) for x, d in zip(leaves, data, strict=True)]


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints: the best, at step 1, and the latest two, 3 and 4."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in range(5):
        checkpoints.save(step, _state(step + 1), best=min(step, 1))
    checkpoints.close()
    return tmp_path / "checkpoints"


def _steps(directory) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_every_bit_comes_back(saved):
    checkpoints = Checkpoints(saved)
    restored = checkpoints.restore_latest(_state(0))
    checkpoints.close()
    assert restored.step == 4
    assert jax.tree.structure(restored.state) == jax.tree.structure(_state())
    assert _bits(restored.state) == _bits(_state(5))
    assert jax.random.bits(restored.state.extra["key"]) == jax.random.bits(jax.random.key(7))


def test_the_best_and_the_latest_two_are_kept(saved):
    assert _steps(saved) == [1, 3, 4]
    checkpoints = Checkpoints(saved)
    assert _bits(checkpoints.restore(1, _state())) == _bits(_state(2))
    checkpoints.save(5, _state(6), best=1)
    assert _steps(saved) == [1, 4, 5]
    checkpoints.save(6, _state(7), best=6)
    checkpoints.close()
    assert _steps(saved) == [5, 6]


def test_nothing_saved_is_nothing_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.restore_latest(_state()) is None
    assert checkpoints.restore(3, _state()) is None
    checkpoints.close()


def _files(directory) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def _listen(messages: list[str], monkeypatch) -> None:
    """Collects our own reports; Orbax logs some of its own."""

    def error(message, *args):
        if "is damaged" in message:
            messages.append(message % args)

    monkeypatch.setattr(logging, "error", error)


def _damaged(saved, messages, monkeypatch):
    _listen(messages, monkeypatch)
    checkpoints = Checkpoints(saved)
    restored = checkpoints.restore_latest(_state())
    gc.collect()  # what Orbax started for the other arrays complains here, not in another test
    return checkpoints, restored


@pytest.mark.parametrize("how", ["emptied", pytest.param("removed", marks=pytest.mark.full)])
def test_damage_of_any_file_is_noticed_or_harmless(how, saved, tmp_path, monkeypatch):
    """Each file in turn is damaged: what is restored is always what was saved."""
    harmless = []
    for number, file in enumerate(_files(saved / "4")):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        path = copy / "4" / file
        path.write_bytes(b"") if how == "emptied" else path.unlink()
        messages: list[str] = []
        checkpoints, restored = _damaged(copy, messages, monkeypatch)
        assert _bits(restored.state) == _bits(_state(restored.step + 1)), file
        if restored.step == 4:
            harmless.append(file)
            assert not messages
        else:
            assert restored.step == 3, file
            assert str(copy / "4") in messages[0]
            checkpoints.save(4, _state(5), best=1)  # the run gets there again
            assert _bits(checkpoints.restore_latest(_state()).state) == _bits(_state(5))
        checkpoints.close()
    # The arrays' own files are not among the harmless ones. (Those of the process that wrote them,
    # in another folder, are: they have been merged.)
    assert not [file for file in harmless if file.startswith(("state/d/", "digest/meta"))]


def test_a_flipped_bit_is_noticed(saved, monkeypatch):
    blobs = [p for p in (saved / "4" / "state").rglob("d/*") if p.is_file()]
    assert blobs
    for path in blobs:
        content = bytearray(path.read_bytes())
        for position in range(0, len(content), 7):
            content[position] ^= 1
        path.write_bytes(content)
    messages: list[str] = []
    checkpoints, restored = _damaged(saved, messages, monkeypatch)
    checkpoints.close()
    assert restored.step == 3
    assert len(messages) == 1
    assert "is damaged" in messages[0]


def test_arrays_that_do_not_have_their_digest_are_refused(saved, monkeypatch):
    """The codec finds nothing wrong with another checkpoint's arrays; the digest does."""
    shutil.rmtree(saved / "4" / "state")
    shutil.copytree(saved / "3" / "state", saved / "4" / "state")
    messages: list[str] = []
    checkpoints, restored = _damaged(saved, messages, monkeypatch)
    checkpoints.close()
    assert restored.step == 3
    assert "do not have the digest" in messages[0]


def test_a_best_checkpoint_that_is_damaged_is_not_restored(saved, monkeypatch):
    shutil.rmtree(saved / "1" / "state")
    messages: list[str] = []
    _listen(messages, monkeypatch)
    checkpoints = Checkpoints(saved)
    assert checkpoints.restore(1, _state()) is None
    checkpoints.close()
    assert messages


def test_only_damaged_checkpoints_are_an_error(saved, monkeypatch):
    for step in (1, 3, 4):
        shutil.rmtree(saved / str(step) / "state")
    with pytest.raises(UserError, match="every checkpoint was damaged"):
        _damaged(saved, [], monkeypatch)
    gc.collect()


def test_what_a_killed_process_left_half_written_is_ignored(saved):
    half = saved / "5.orbax-checkpoint-tmp"
    shutil.copytree(saved / "4", half)
    checkpoints = Checkpoints(saved)
    assert checkpoints.restore_latest(_state()).step == 4
    checkpoints.save(5, _state(6), best=1)
    checkpoints.close()
    assert not half.exists()
    assert 5 in _steps(saved)


@pytest.mark.parametrize(
    "other",
    [
        {"a": jnp.array([1.0, -0.0])},
        {"b": jnp.array([1.0, 0.0])},
        {"a": jnp.array([1.0, 0.0], jnp.float16)},
        {"a": jnp.array([[1.0, 0.0]])},
        {"a": jnp.array([1.0]), "b": jnp.array([0.0])},
    ],
)
def test_the_digest_tells_apart(other):
    assert digest(other) != digest({"a": jnp.array([1.0, 0.0])})


def test_the_digest_covers_keys_and_scalars():
    assert digest(jax.random.key(0)) != digest(jax.random.key(1))
    assert digest(jnp.int32(0)) != digest(jnp.int32(1))
    assert digest(jax.random.key(0)) != digest(jax.random.key_data(jax.random.key(0)))
