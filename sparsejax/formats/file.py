"""Sparse networks in a file: safetensors, each masked parameter as its mask and its kept values.

A leaf named `n` (its number) has the tensor `n.values`, the kept entries in row-major order, and,
if it is masked, `n.mask`: bits, or gaps, whichever is shorter. What the tensors mean stands in the
file's metadata as JSON, with a checksum of each; nothing in a file is ever executed.
"""

import json
import math
import os
import secrets
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats import gaps
from sparsejax.masks import path_name, spread
from sparsejax.typing import Masks, Params

VERSION = 1

# By the name that safetensors has for a type, its NumPy type.
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MOST_ENTRIES = 2**32


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
      params: The parameters, exactly 0 off their masks: dicts and lists as they were saved, other
        nodes as dicts of their fields.
      masks: The mask tree, each leaf with the shape that it was saved with.
      config: What was saved with them.
    """

    params: Params
    masks: Masks
    config: Any


def save(path: str | os.PathLike[str], params: Params, masks: Masks, config: Any = None) -> None:
    """Writes a sparse network to one file, whole or not at all.

    At 90 % sparsity a float32 network takes an eighth of its dense bytes.

    Args:
      path: The file; one that exists is replaced.
      params: Any pytree of arrays, at least one.
      masks: The mask tree; a scalar True marks a parameter that is stored dense.
      config: Anything that JSON can hold.

    Raises:
      ImportError: if safetensors is not installed.
      ValueError: if a leaf has a type that safetensors lacks, or JSON cannot hold the config.

    >>> import tempfile
    >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net", {"w": kernel}, {"w": kernel > 2}, {"lr": 0.1})
    ...     load(f"{folder}/net").params["w"].tolist()
    [[0.0, 0.0], [3.0, 4.0]]
    """
    numpy_format = _safetensors("numpy")
    tensors: dict[str, np.ndarray] = {}
    leaves = []
    masks_by_leaf = jax.tree.leaves(spread(masks, params))
    paths = jax.tree_util.tree_leaves_with_path(params)
    for number, ((keys, leaf), m) in enumerate(zip(paths, masks_by_leaf, strict=True)):
        array, mask = np.asarray(leaf), np.asarray(m)
        name = path_name(keys)
        if array.dtype not in _NAMES:
            raise ValueError(f"{name!r} is of {array.dtype}, which safetensors lacks")
        parts = {"values": array.ravel()}
        entry: dict[str, Any] = {"path": [_key(key) for key in keys], "shape": list(array.shape)}
        if mask.ndim or not mask:
            parts = {"values": array[np.broadcast_to(mask, array.shape)]}
            codes = {
                "bits": np.packbits(mask.ravel(), bitorder="little"),
                "gaps": gaps.encode(mask),
            }
            coding = min(codes, key=lambda name: codes[name].nbytes)
            parts["mask"] = codes[coding]
            entry |= {"mask_shape": list(mask.shape), "coding": coding}
        entry["dtype"] = _NAMES[array.dtype]
        entry["crc32"] = {part: zlib.crc32(data.tobytes()) for part, data in parts.items()}
        leaves.append(entry)
        tensors |= {f"{number}.{part}": data for part, data in parts.items()}
    try:
        schema = json.dumps({"leaves": leaves, "config": config}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config has to be made of what JSON has: {error}") from error
    metadata = {
        "format": "sparsejax",
        "version": str(VERSION),
        "schema": schema,
        "crc32": str(zlib.crc32(schema.encode())),
    }
    write_whole(Path(path), numpy_format.save(tensors, metadata=metadata))


def load(path: str | os.PathLike[str]) -> Saved:
    """Reads a file that `save` wrote, and refuses any that is not exactly that.

    Args:
      path: The file.

    Raises:
      ImportError: if safetensors is not installed.
      OSError: if the file cannot be read.
      ValueError: if it is damaged, contradicts itself or is of another version; the message names
        the file, and the leaf where it is one leaf.
    """
    deserialize = _safetensors().deserialize
    data = Path(path).read_bytes()
    try:
        tensors = dict(deserialize(data))
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        version, schema = metadata["version"], metadata["schema"]
    except Exception as error:  # The library's errors are its own; there is no other cause.
        raise ValueError(f"{path} is no file of sparsejax's, or a damaged one: {error}") from error
    if metadata.get("format") != "sparsejax" or version != str(VERSION):
        raise ValueError(
            f"{path} has the format {metadata.get('format')!r} of version {version!r}; this reads "
            f"'sparsejax' of version '{VERSION}'"
        )
    if metadata.get("crc32") != str(zlib.crc32(schema.encode())):
        raise ValueError(f"{path} is damaged: its schema does not have the checksum that it names")
    params: Any = {}
    masks: Any = {}
    try:
        content = json.loads(schema)
        leaves, config = content["leaves"], content["config"]
        expected = {f"{i}.{part}" for i, leaf in enumerate(leaves) for part in leaf["crc32"]}
        if expected != tensors.keys():
            raise ValueError(
                f"the tensors {sorted(expected ^ tensors.keys())} are not accounted for"
            )
        paths = [leaf["path"] for leaf in leaves]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a schema that is wrong: {error!r}") from error
    for number, leaf in enumerate(leaves):
        parts = {part: tensors[f"{number}.{part}"] for part in leaf["crc32"]}
        try:
            array, mask = _leaf(leaf, parts)
            _place(params, leaf["path"], jnp.asarray(array))
            _place(masks, leaf["path"], jnp.asarray(mask))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: the leaf {paths[number]!r} is wrong: {error}") from error
    return Saved(_nodes(params), _nodes(masks), config)


def _leaf(leaf: dict[str, Any], parts: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Makes one parameter and its mask, distrusting everything."""
    shape = _shape(leaf["shape"])
    arrays = {}
    for part, tensor in parts.items():
        dtype = leaf["dtype"] if part == "values" else "U8"
        if tensor["dtype"] != dtype:
            raise ValueError(f"its {part} are of {tensor['dtype']}, not of {dtype}")
        if zlib.crc32(tensor["data"]) != leaf["crc32"][part]:
            raise ValueError(f"its {part} do not have their checksum: the file is damaged")
        arrays[part] = np.frombuffer(tensor["data"], _DTYPES[dtype])
    if jax.dtypes.canonicalize_dtype(arrays["values"].dtype) != arrays["values"].dtype:
        raise ValueError(f"it is of {leaf['dtype']}, and jax_enable_x64 is not set")
    if arrays.keys() == {"values"}:
        mask = np.array(True)
    else:
        mask = _mask(arrays["mask"], _shape(leaf["mask_shape"]), leaf["coding"])
    last = shape[len(shape) - mask.ndim :]
    if mask.ndim > len(shape) or any(
        m not in (1, n) for m, n in zip(mask.shape, last, strict=True)
    ):
        raise ValueError(f"a mask of {mask.shape} does not fit {shape}")
    kept = int(mask.sum()) * (math.prod(shape) // max(mask.size, 1))
    if kept != len(arrays["values"]):
        raise ValueError(f"its mask keeps {kept} entries, but {len(arrays['values'])} are stored")
    array = np.zeros(shape, arrays["values"].dtype)
    array[np.broadcast_to(mask, shape)] = arrays["values"]
    return array, mask


def _mask(code: np.ndarray, shape: tuple[int, ...], coding: str) -> np.ndarray:
    size = math.prod(shape)
    if coding == "gaps":
        return gaps.decode(code, size).reshape(shape)
    if coding != "bits":
        raise ValueError(f"its mask has the coding {coding!r}, which is unknown")
    bits = np.unpackbits(code, bitorder="little")
    if len(code) != -(-size // 8) or bits[size:].any():
        raise ValueError(f"its mask has {len(code)} bytes for {size} bits, or bits behind the last")
    return bits[:size].astype(bool).reshape(shape)


def _shape(sizes: Any) -> tuple[int, ...]:
    good = isinstance(sizes, list) and all(type(n) is int and n >= 0 for n in sizes)
    if not good or math.prod(sizes) > _MOST_ENTRIES:
        raise ValueError(f"{sizes} is no shape")
    return tuple(sizes)


def _key(key: Any) -> list[Any]:
    """One step of a path, as JSON."""
    match key:
        case jax.tree_util.SequenceKey(idx=index):
            return ["item", index]
        case jax.tree_util.DictKey(key=name) if isinstance(name, str | int):
            return ["key", name]
    return ["key", path_name((key,))]


class _Items(dict[int, Any]):
    """A list that is being read."""


def _place(tree: Any, path: Any, leaf: jax.Array) -> None:
    """Puts a leaf where its path leads. The empty path, of a tree that is one leaf, is ''."""
    steps = [("key", ""), *((kind, name) for kind, name in path)]
    for (_, name), (kind, _) in zip(steps, [*steps[1:], (None, None)], strict=True):
        if type(name) not in (str, int) or kind not in ("key", "item", None):
            raise ValueError(f"{path} is no path")
        if kind is None:
            if name in tree:
                raise ValueError("another leaf has this path")
            tree[name] = leaf
            return
        node = tree.setdefault(name, _Items() if kind == "item" else {})
        if type(node) is not (_Items if kind == "item" else dict):
            raise ValueError("it lies below another leaf, or in a list that is a dict, too")
        tree = node


def _nodes(tree: Any) -> Any:
    """The tree below the root, with its lists as lists."""

    def finished(node: Any) -> Any:
        if isinstance(node, _Items):
            return [finished(node[index]) for index in sorted(node)]
        if isinstance(node, dict):
            return {name: finished(below) for name, below in node.items()}
        return node

    return finished(tree).get("", {})


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: beside it, and then in its place."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _safetensors(module: str | None = None) -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("this needs safetensors: pip install 'sparsejax[files]'") from error
    return safetensors.numpy if module else safetensors
