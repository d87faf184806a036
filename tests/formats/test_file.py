"""Files of sparse networks: exact, small, whole or absent, and refused when anything is wrong."""

import json
import os
import random
import struct
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from sparsejax.formats import gaps, load, save


def network():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 4, 6)), "bias": np.zeros(6)},
        "mlp/~/linear": [{"w": rng.normal(size=(40, 50))}, {"w": rng.normal(size=(0, 5))}],
        "scale": np.array(2.0),
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    params["mlp/~/linear"][0]["w"] = params["mlp/~/linear"][0]["w"].astype(jnp.bfloat16)
    params["table"] = jnp.asarray(rng.integers(-9, 9, (7, 9)), jnp.int8)
    masks = jax.tree.map(lambda x: np.array(True), params)
    masks["conv"]["kernel"] = rng.random((1, 1, 1, 6)) < 0.5
    masks["mlp/~/linear"][0]["w"] = rng.random((40, 50)) < 0.02
    masks["mlp/~/linear"][1]["w"] = np.ones((0, 5), bool)
    masks["table"] = np.ones((7, 9), bool)
    params = jax.tree.map(lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, masks)
    return params, masks


CONFIG = {"model": "lenet300", "sparsity": 0.9, "widths": [300, 100], "note": None}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@given(st.lists(st.integers(0, 700), max_size=8), st.integers(0, 800))
def test_gaps_there_and_back(stops, tail):
    mask = np.zeros(int(np.sum(stops) + len(stops) + tail), bool)
    mask[np.cumsum([gap + 1 for gap in stops], dtype=int) - 1] = True
    code = gaps.encode(mask)
    np.testing.assert_array_equal(gaps.decode(code, mask.size), mask)
    assert len(code) <= len(stops) + 1 + mask.size // 255
    for wrong in mask.size + 1, mask.size - 1:
        with pytest.raises(ValueError, match="do not end"):
            gaps.decode(code, wrong)
    with pytest.raises(ValueError, match="do not end"):
        gaps.decode(code[:-1], mask.size)


def test_there_and_back_is_exact(tmp_path):
    params, masks = network()
    save(tmp_path / "net", params, masks, CONFIG)
    saved = load(tmp_path / "net")
    assert_same(saved.params, params)
    assert_same(saved.masks, jax.tree.map(jnp.asarray, masks))
    assert saved.config == CONFIG
    assert os.listdir(tmp_path) == ["net"]
    save(tmp_path / "leaf", jnp.ones(3), jnp.array(False))
    assert load(tmp_path / "leaf").params.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("sparsity", "most"), [(0.8, 0.235), (0.9, 0.14), (0.99, 0.015)])
def test_a_sparse_network_is_small(tmp_path, sparsity, most):
    rng = np.random.default_rng(1)
    params = {f"layer_{i}": np.float32(rng.normal(size=(256, 256))) for i in range(4)}
    masks = {name: rng.permutation(256 * 256).reshape(256, 256) >= 256 * 256 * sparsity
             for name in params}  # fmt: skip
    save(tmp_path / "net", params, masks)
    assert (tmp_path / "net").stat().st_size <= most * 4 * 256 * 256 * 4


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net"
    save(path, {"w": jnp.ones(2)}, {"w": jnp.array(True)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="what JSON has"):
        save(path, {"w": jnp.zeros(2)}, {"w": jnp.array(True)}, config={"f": print})
    with pytest.raises(ValueError, match="'w' is of int4"):
        save(path, {"w": jnp.zeros(2, jnp.int4)}, {"w": jnp.array(True)})

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(path, {"w": jnp.zeros(2)}, {"w": jnp.array(True)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'sparsejax\[files\]'"):
        load(tmp_path / "net")


def test_damaged_files_are_refused(tmp_path):
    params, masks = network()
    path = tmp_path / "net"
    save(path, params, masks, CONFIG)
    data = path.read_bytes()
    rng = random.Random(0)
    damaged = [data[: rng.randrange(len(data))] for _ in range(30)] + [b"", data + b"\0"]
    for _ in range(300):
        flipped = bytearray(data)
        # Half of the flips hit the header, where the structure is.
        end = len(data) if rng.random() < 0.5 else 8 + struct.unpack("<Q", data[:8])[0]
        flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    damaged.append(struct.pack("<Q", 2**62) + data[8:])  # an oversized header
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=str(path)):
            load(path)


def rewrite(path, change):
    """Writes a file again, with correct checksums, after a change to its schema and tensors."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    types = {"F32": np.float32, "U8": np.uint8}
    parts = {
        name: np.frombuffer(t["data"], types[t["dtype"]])
        for name, t in safetensors.deserialize(data)
    }
    schema = json.loads(metadata["schema"])
    change(schema, parts, metadata)
    for name, part in parts.items():
        number, kind = name.split(".")
        if int(number) < len(schema["leaves"]):
            schema["leaves"][int(number)]["crc32"][kind] = zlib.crc32(part.tobytes())
    metadata["schema"] = json.dumps(schema)
    metadata["crc32"] = str(zlib.crc32(metadata["schema"].encode()))
    path.write_bytes(safetensors.numpy.save(parts, metadata=metadata))


def leaf_with(**changes):
    return lambda schema, parts, metadata: schema["leaves"][0].update(changes)


def parts_with(**changes):
    return lambda schema, parts, metadata: parts.update(
        {f"0.{name}": np.asarray(value) for name, value in changes.items()}
    )


def metadata_with(**changes):
    return lambda schema, parts, metadata: metadata.update(changes)


LIES = {
    "more entries than values": (leaf_with(shape=[4, 51]), "does not fit"),
    "fewer values than kept": (parts_with(values=np.float32([1])), "but 1 are stored"),
    "positions beyond the mask": (parts_with(mask=np.uint8([200, 0])), "do not end"),
    "a mask that is cut": (parts_with(mask=np.uint8([3])), "do not end"),
    "no mask at all": (parts_with(mask=np.uint8([])), "do not end"),
    "bits for gaps": (leaf_with(coding="bits"), "bytes for 200 bits"),
    "an unknown coding": (leaf_with(coding="pickle"), "unknown"),
    "values of another type": (parts_with(values=np.uint8([1, 2])), "are of U8, not of F32"),
    "another type for the values": (leaf_with(dtype="F16"), "are of F32, not of F16"),
    "no such type": (leaf_with(dtype="Q7"), "not of Q7"),
    "a negative shape": (leaf_with(shape=[-4, -50]), "is no shape"),
    "a shape of text": (leaf_with(shape="45"), "is no shape"),
    "a shape beyond all memory": (leaf_with(mask_shape=[2**40, 2**40]), "is no shape"),
    "a mask larger than the leaf": (leaf_with(shape=[50]), "does not fit"),
    "no shape": (lambda s, p, m: s["leaves"][0].pop("shape"), "'shape'"),
    "no path": (leaf_with(path=[["key", None]]), "is no path"),
    "a wrong path": (leaf_with(path=[["run", "x"]]), "is no path"),
    "a path twice": (
        lambda s, p, m: s["leaves"][1].update(path=s["leaves"][0]["path"]),
        "another leaf has this path",
    ),
    "a path below a leaf": (
        lambda s, p, m: s["leaves"][1].update(path=[["key", "a"], ["key", "b"]]),
        "below another leaf",
    ),
    "a tensor too many": (lambda s, p, m: p.update({"9.values": np.float32([0])}), "accounted"),
    "an unknown version": (metadata_with(version="2"), "version '2'; this reads"),
    "another format": (metadata_with(format="pt"), "format 'pt'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused(tmp_path, lie):
    change, message = LIES[lie]
    mask = np.zeros((4, 50), bool)
    mask[[1, 3], [7, 9]] = True
    path = tmp_path / "net"
    save(path, {"a": jnp.ones((4, 50)), "b": jnp.ones(3)}, {"a": mask, "b": np.array(True)})
    rewrite(path, lambda schema, parts, metadata: None)
    assert load(path).params["a"].sum() == 2
    rewrite(path, change)
    with pytest.raises(ValueError, match="net") as error:
        load(path)
    assert message in str(error.value)
    if lie not in ("a tensor too many", "an unknown version", "another format"):
        assert "the leaf [[" in str(error.value)


def test_64_bits_are_not_cut_to_32(tmp_path):
    save(tmp_path / "net", {"w": np.float64([1 / 3])}, {"w": np.array(True)})
    with pytest.raises(ValueError, match=r"'w'.*jax_enable_x64 is not set"):
        load(tmp_path / "net")
    with jax.enable_x64(True):
        assert load(tmp_path / "net").params["w"].dtype == np.float64
