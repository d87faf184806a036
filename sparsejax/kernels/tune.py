"""Which backend is the fastest for a layer: measured once on a machine, and remembered."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.formats.csr import CSR
from sparsejax.formats.file import write_whole
from sparsejax.formats.matrix import Format, view
from sparsejax.kernels.indexed import index
from sparsejax.kernels.product import BACKENDS, sparse_matmul, why_not
from sparsejax.topology import random_masks
from sparsejax.typing import Structure


class Timing(NamedTuple):
    """The time of a layer's forward pass and both gradients.

    Attributes:
      layer: What was measured, in words.
      baseline: Seconds of the same products with a dense matrix, by XLA.
      seconds: Backend -> seconds.
      reasons: Backend that does not work here -> why.
    """

    layer: str
    baseline: float
    seconds: dict[str, float]
    reasons: dict[str, str]

    @property
    def best(self) -> str:
        """The fastest backend."""
        return min(self.seconds, key=lambda name: self.seconds[name])

    @property
    def speedup(self) -> float:
        """How many times as long the dense products take as the fastest backend."""
        return self.baseline / self.seconds[self.best]


def autotune(
    shape: tuple[int, ...],
    density: float,
    batch: int,
    *,
    structure: Structure | None = None,
    format: Callable[[Any, Any], Format] = CSR.from_dense,
    dtype: Any = jnp.float32,
    rounds: int = 15,
) -> Timing:
    """Measures the backends for a layer, or returns what was measured before on this machine.

    The answer is kept in `sparsejax/kernels.json` in the user's cache folder; delete it to measure
    anew. `sparse_matmul(x, w, backend=autotune(...).best)` then takes the fastest.

    Args:
      shape: The shape of the weights, outputs last.
      density: Kept entries / entries; random masks of this density are measured.
      batch: Rows of the inputs.
      structure: Of the masks; None for unstructured.
      format: Makes the format of the weights from `(array, mask)`.
      dtype: The type of weights and inputs.
      rounds: How often each backend is timed, in turn; the median counts.

    Raises:
      ValueError: if the density or structure does not fit.
    """
    kind = "unstructured" if structure is None else structure.name
    layer = (
        f"{'x'.join(map(str, shape))}, density {density:.4g}, batch {batch}, {kind}, "
        f"{getattr(format, '__qualname__', repr(format))}, {jnp.dtype(dtype).name}"
    )
    known = _read()
    key = f"{layer}; {machine()}"
    if key not in known:
        timing = _measure(layer, shape, density, batch, structure, format, dtype, rounds)
        # What others have measured meanwhile is kept.
        known = _read() | {key: timing}
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({k: t._asdict() for k, t in known.items()}).encode())
    return known[key]


def explain() -> None:
    """Prints what has been measured on this machine, and why backends do not work, if so."""
    for name in BACKENDS:
        reason = why_not(name, jnp.float32)
        if reason is not None:
            print(f"The backend {name!r} does not work here: {reason}.")
    here = [t for key, t in _read().items() if key.endswith(f"; {machine()}")]
    if not here:
        print("Nothing has been measured on this machine yet; autotune does it.")
        return
    rows: list[tuple[str, ...]] = [("layer", "dense product", *BACKENDS, "")]
    for t in here:
        verdict = f"{t.best} is {t.speedup:.1f} x faster"
        rows.append(
            (
                t.layer,
                f"{1e3 * t.baseline:.3f} ms",
                *(f"{1e3 * t.seconds[b]:.3f} ms" if b in t.seconds else "-" for b in BACKENDS),
                verdict if t.speedup > 1 else "no speed-up here",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def cache_file() -> Path:
    """Returns where the measurements are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "sparsejax" / "kernels.json"


def machine() -> str:
    """Returns what measurements hold for: the device, its threads, and the version of jax."""
    device = jax.devices()[0].device_kind
    return f"{device}, {os.cpu_count()} cores, jax {jax.__version__}"


def _read() -> dict[str, Timing]:
    """What is known; nothing if the file is not there, or not one of this kind."""
    try:
        found = json.loads(cache_file().read_bytes())
        return {key: Timing(**timing) for key, timing in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measure(
    layer: str,
    shape: tuple[int, ...],
    density: float,
    batch: int,
    structure: Structure | None,
    format: Callable[[Any, Any], Format],
    dtype: Any,
    rounds: int,
) -> Timing:
    keys = jax.random.split(jax.random.key(0), 4)
    weights = jax.random.normal(keys[0], shape, dtype)
    masks = random_masks(
        {"w": weights}, keys[1], 1 - density, structure=structure, prunable=lambda *_: True
    )
    w = format(weights, masks["w"])
    inputs, outputs = view(shape)
    x = jax.random.normal(keys[2], (batch, inputs), dtype)
    dy = jax.random.normal(keys[3], (batch, outputs), dtype)
    matrix = w.todense().reshape(inputs, outputs)
    programs = {"": jax.jit(lambda x, w, dy: (x @ w, dy @ w.T, x.T @ dy))}
    arguments: dict[str, Any] = {"": (x, matrix, dy)}
    reasons = {}
    for backend in BACKENDS:
        reason = why_not(backend, jnp.dtype(dtype), type(w))
        if reason is not None:
            reasons[backend] = reason
            continue
        programs[backend] = jax.jit(_products(backend))
        arguments[backend] = (x, index(w) if backend == "cpu" else w, dy)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(*arguments[name]))
            times[name].append(time.perf_counter() - begun)
    # The first round is compilation.
    seconds = {name: float(np.median(t[1:])) for name, t in times.items()}
    return Timing(layer, seconds.pop(""), seconds, reasons)


def _products(backend: str) -> Callable[[jax.Array, Format, jax.Array], Any]:
    """A layer's products: forward, and the gradients of inputs and stored values."""

    def run(x: jax.Array, w: Format, dy: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, w: sparse_matmul(x, w, backend=backend), x, w)
        dx, dw = back(dy)
        return y, dx, dw.values

    return run
