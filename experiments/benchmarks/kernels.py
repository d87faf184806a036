"""How much faster than dense products are those with sparse matrices?

    python -m experiments.benchmarks.kernels [--sparsities 0.9,0.95,0.98] [--rounds 25]

Prints, for layers of float32, the milliseconds that XLA takes for a layer's three products
(forward, and the gradients of inputs and weights) with a dense matrix at batch 128, and how many
times as fast each backend of `sparsejax.kernels` is, with random masks; then with masks of blocks.
Then the same for the forward product alone at batch 1 and 8, and how many times as fast scipy's
product is. The programs take turns of a few calls in a row, so each finds in the caches what it
left there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.timing import interleaved, ratio
from sparsejax import formats, kernels

LAYERS = [(1024, 1024), (4096, 1024), (784, 300)]
BLOCKS = [16, 32, 64]
CALLS = 5


def columns(stored_as: type) -> list[str]:
    """The backends that work here with a format."""
    return [b for b in kernels.BACKENDS if kernels.why_not(b, jnp.float32, stored_as) is None]


def layer(shape: tuple[int, int], sparsity: float, batch: int, block: int = 1) -> tuple[Any, ...]:
    """Inputs, a dense matrix with zeros, the gradient of the outputs, and the matrix's mask."""
    rng = np.random.default_rng(0)
    blocks = rng.random([-(-size // block) for size in shape]) >= sparsity
    mask = np.kron(blocks, np.ones((block, block), bool))[: shape[0], : shape[1]]
    x, w, dy = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in ((batch, shape[0]), shape, (batch, shape[1]))
    )
    return x, jnp.where(mask, w, 0), dy, mask


@functools.partial(jax.jit, static_argnums=3)
def training(x: jax.Array, w: formats.Format, dy: jax.Array, backend: str) -> Any:
    """The product, and the gradients of the inputs and of the stored values."""
    y, back = jax.vjp(lambda x, w: kernels.sparse_matmul(x, w, backend=backend), x, w)
    dx, dw = back(dy)
    return y, dx, dw.values


@jax.jit
def dense_training(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
    """The same with a dense matrix."""
    return x @ w, dy @ w.T, x.T @ dy


@functools.partial(jax.jit, static_argnums=2)
def inference(x: jax.Array, w: formats.Format, backend: str) -> jax.Array:
    """The product alone."""
    return kernels.sparse_matmul(x, w, backend=backend)


def stored(w: jax.Array, mask: np.ndarray, backend: str, made: Any) -> formats.Format:
    """The matrix as a backend wants it."""
    sparse = made(w, mask)
    return kernels.index(sparse) if backend == "cpu" else sparse


def measure(sparsities: list[float], rounds: int) -> Table:
    """Times forward and backward products at batch 128."""
    names = columns(formats.CSR)
    table = Table("layer", "sparsity", "dense", *names, title="forward and gradients, batch 128")
    for shape in LAYERS:
        for sparsity in sparsities:
            problem = layer(shape, sparsity, 128)
            times = training_times(problem, names, formats.CSR.from_dense, rounds)
            table.add_row(str(shape), f"{sparsity:.0%}", *row(times))
    return table


def measure_blocks(sparsities: list[float], rounds: int) -> Table:
    """Times forward and backward products at batch 128, with masks of square blocks."""
    names = columns(formats.BSR)
    title = "forward and gradients with blocks, batch 128"
    table = Table("layer", "sparsity", "block", "dense", *names, title=title)
    for shape in LAYERS:
        for sparsity in sparsities:
            for block in BLOCKS:
                problem = layer(shape, sparsity, 128, block)
                made = functools.partial(formats.BSR.from_dense, block=(block, block))
                times = training_times(problem, names, made, rounds)
                table.add_row(str(shape), f"{sparsity:.0%}", str(block), *row(times))
    return table


def training_times(
    problem: tuple[Any, ...], names: list[str], made: Any, rounds: int
) -> dict[str, np.ndarray]:
    """The times of a dense layer's products, and of those by each backend."""
    x, w, dy, mask = problem
    programs: dict[str, Any] = {"": functools.partial(dense_training, x, w, dy)}
    for name in names:
        programs[name] = functools.partial(training, x, stored(w, mask, name, made), dy, name)
    return interleaved(programs, rounds, calls=CALLS)


def measure_inference(sparsities: list[float], rounds: int) -> Table:
    """Times forward products at small batches."""
    names = columns(formats.CSC)
    table = Table("layer", "sparsity", "batch", "dense", *names, "scipy", title="forward")
    for shape in LAYERS:
        for sparsity in sparsities:
            for batch in (1, 8):
                x, w, _, mask = layer(shape, sparsity, batch)
                programs: dict[str, Any] = {"": functools.partial(jax.jit(jnp.matmul), x, w)}
                for name in names:
                    s = stored(w, mask, name, formats.CSC.from_dense)
                    programs[name] = functools.partial(inference, x, s, name)
                across = scipy.sparse.csr_array(np.asarray(w).T)
                programs["scipy"] = functools.partial(across.__matmul__, np.asarray(x).T.copy())
                times = interleaved(programs, rounds, calls=CALLS)
                table.add_row(str(shape), f"{sparsity:.0%}", str(batch), *row(times))
    return table


def row(times: dict[str, np.ndarray]) -> list[str]:
    """Milliseconds of the dense product, and how many times as fast each of the others is."""
    dense = times.pop("")
    return [
        f"{1e3 * np.median(dense):.3f} ms",
        *(f"{ratio(dense, t):.2f} x" for t in times.values()),
    ]


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    sparsities = [float(s) for s in flags.FLAGS.sparsities]
    Console().print(measure(sparsities, flags.FLAGS.rounds))
    Console().print(measure_blocks(sparsities, flags.FLAGS.rounds))
    Console().print(measure_inference(sparsities, flags.FLAGS.rounds))


if __name__ == "__main__":
    flags.DEFINE_list("sparsities", ["0.9", "0.95", "0.98"], "Which sparsities to measure.")
    flags.DEFINE_integer("rounds", 25, "How often each program is timed.", lower_bound=1)
    app.run(main)
