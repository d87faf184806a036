"""How fast is the exact selection of the k largest, against sorting?

    python -m experiments.benchmarks.selection [--sizes 1,4,25] [--rounds 5]

Prints, for float32 arrays at 90 % sparsity, the milliseconds of `sparsejax.top_k_mask` and how many
times as long `jnp.argsort`, `jax.lax.top_k` and NumPy's partition (one thread) take for the same
array. "weights" are normal; "pruned weights" are 90 % zeros, so that ties have to be told apart.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments.benchmarks.timing import interleaved, ratio


def scores(kind: str, size: int) -> jax.Array:
    """Magnitudes of weights, or of weights of which 90 % are pruned already."""
    keys = jax.random.split(jax.random.key(0))
    weights = jnp.abs(jax.random.normal(keys[0], (size,)))
    if kind == "weights":
        return weights
    return jnp.where(jax.random.uniform(keys[1], (size,)) < 0.1, weights, 0)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    table = Table("scores", "entries", "top_k_mask", "argsort", "lax.top_k", "np.partition")
    for size in (int(float(millions) * 1e6) for millions in flags.FLAGS.sizes):
        for kind in ("weights", "pruned weights"):
            x = jax.block_until_ready(scores(kind, size))
            k, host = size // 10, np.asarray(x)
            programs: dict[str, Callable[[], object]] = {
                "ours": functools.partial(jax.jit(lambda x, k=k: sparsejax.top_k_mask(x, k)), x),
                "argsort": functools.partial(jax.jit(jnp.argsort), x),
                "top_k": functools.partial(jax.jit(lambda x, k=k: jax.lax.top_k(x, k)), x),
                "partition": functools.partial(np.partition, host, size - k),
            }
            times = interleaved(programs, flags.FLAGS.rounds)
            ours = times.pop("ours")
            table.add_row(
                kind,
                f"{size:,}",
                f"{1e3 * np.median(ours):.1f} ms",
                *(f"{ratio(t, ours):.1f} x" for t in times.values()),
            )
    Console().print(table)


if __name__ == "__main__":
    flags.DEFINE_list("sizes", ["1", "4", "25"], "Millions of entries.")
    flags.DEFINE_integer("rounds", 5, "How often each program is timed.", lower_bound=1)
    app.run(main)
