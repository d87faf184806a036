"""Is training in packed form faster than dense training, and does it learn the same?

    python -m experiments.benchmarks.packed_training [--sparsities 0.9,0.95] [--rounds 15] \
        [--epochs 1] [--seeds 3]

An MLP 784-2048-2048-10 on MNIST, batches of 128, Adam at 0.001. For RigL and SET, which move masks
every 100 steps in place of a gradient step, it prints the milliseconds of a whole dense training
step, how many times as fast a step of masked and of packed training is, their average with the
steps that move the masks, and the bytes of parameters, slots and topology as a share of the dense
parameters and slots. Then the test accuracies of masked and packed training after so many epochs,
mean ± standard deviation of the seeds. When they are timed, the programs take turns of a few steps
in a row. MNIST is looked for where SPARSEJAX_DATA says; --epochs 0 does without.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from rich.console import Console
from rich.progress import track
from rich.table import Table

import sparsejax
from experiments import data, models, sparse_layers
from experiments.benchmarks.timing import interleaved, ratio
from sparsejax import packed

MODEL = models.lenet300(widths=(2048, 2048))
BATCH, PERIOD, CALLS = 128, 100, 4
RULES = {"rigl": sparsejax.rigl, "set": sparsejax.set_}
OPTIMIZER = optax.adam(1e-3)


def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross entropy; the parameters may be sparse."""
    logits = sparse_layers.apply(MODEL, {"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def initial(seed: int) -> Any:
    return MODEL.init(jax.random.key(seed), jnp.zeros((1, 28, 28, 1)))["params"]


def masked(tx: optax.GradientTransformation) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`init` and `step` of training by a transformation, with dense arrays."""

    def init(params: Any) -> Any:
        state = tx.init(params)
        if sparsejax.masks.find_in_state(state, "masks"):
            params = sparsejax.apply_masks(params, sparsejax.get_masks(state))
        return params, state

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, inner = state
        grads = jax.grad(loss)(params, images, labels)
        updates, inner = tx.update(grads, inner, params)
        return optax.apply_updates(params, updates), inner

    return init, jax.jit(step, donate_argnums=0)


def packed_(rule: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same in packed form."""
    trainer = packed.packed(OPTIMIZER, rule, replace_step=True)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        return trainer.step(state, functools.partial(loss, images=images, labels=labels))[0]

    return trainer.init, jax.jit(step, donate_argnums=0)


def ways(method: str, sparsity: float, seed: int = 0, period: int = PERIOD) -> dict[str, Any]:
    """Both ways to train by a method."""
    rule = RULES[method](sparsity, period=period, seed=seed)
    return {
        "masked": masked(sparsejax.sparsify(OPTIMIZER, rule, replace_step=True)),
        "packed": packed_(rule),
    }


class Program:
    """Training steps, one after the other, on the same batch."""

    def __init__(self, way: Any, images: jax.Array, labels: jax.Array):
        init, self.step = way
        self.batch = images, labels
        self.state = init(initial(0))

    def __call__(self) -> Any:
        self.state = self.step(self.state, *self.batch)
        return self.state


def size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def measure(sparsities: list[float], rounds: int) -> Table:
    """Times whole training steps, with and without a move of the masks."""
    rng = np.random.default_rng(0)
    batch = (
        jnp.asarray(rng.normal(size=(BATCH, 28, 28, 1)), jnp.float32),
        jnp.asarray(rng.integers(0, 10, BATCH)),
    )
    columns = "method", "sparsity", "dense", "masked", "packed", "packed, all steps", "state"
    table = Table(*columns, title=f"whole training step, batch {BATCH}; times as fast as dense")
    for method in RULES:
        for sparsity in sparsities:
            programs = {"dense": Program(masked(OPTIMIZER), *batch)}
            for name, way in ways(method, sparsity, period=10**6).items():
                programs[name] = Program(way, *batch)
            moving = ways(method, sparsity, period=1)["packed"]
            programs["moving"] = Program(moving, *batch)
            times = interleaved(programs, rounds, calls=CALLS)
            dense = np.median(times["dense"])
            average = times["packed"] + (times["moving"] - times["packed"]) / PERIOD
            state = programs["packed"].state
            share = size((state.values, state.inner_state, state.topology))
            table.add_row(
                method,
                f"{sparsity:.0%}",
                f"{1e3 * dense:.1f} ms",
                f"{ratio(times['dense'], times['masked']):.2f} x",
                f"{ratio(times['dense'], times['packed']):.2f} x",
                f"{ratio(times['dense'], average):.2f} x",
                f"{share / size(programs['dense'].state):.3f}",
            )
    return table


def accuracy(params: Any, dataset: data.Dataset) -> float:
    """The share of test images that dense parameters classify rightly."""
    images = dataset.normalise(dataset.test.images)
    logits = jax.jit(lambda p, x: MODEL.apply({"params": p}, x))(params, images)
    return float((logits.argmax(-1) == dataset.test.labels).mean())


def learn(dataset: data.Dataset, sparsities: list[float], epochs: int, seeds: int) -> Table:
    """Trains both ways."""
    title = f"test accuracy in %, {epochs} epochs, {seeds} seeds"
    table = Table("method", "sparsity", "masked", "packed", title=title)
    examples = len(dataset.train.labels)
    steps = epochs * examples // BATCH
    for method in RULES:
        for sparsity in sparsities:
            reached: dict[str, list[float]] = {}
            for seed in track(range(seeds), f"{method} {sparsity:.0%}", transient=True):
                for name, (init, step) in ways(method, sparsity, seed).items():
                    state = init(initial(seed))
                    for i in range(steps):
                        chosen = data.batch_indices(seed, i, examples, BATCH)
                        images = dataset.normalise(dataset.train.images[chosen])
                        state = step(state, images, dataset.train.labels[chosen])
                    params = state[0] if name == "masked" else state.params()
                    reached.setdefault(name, []).append(100 * accuracy(params, dataset))
            table.add_row(
                method,
                f"{sparsity:.0%}",
                *(f"{np.mean(a):.2f} ± {np.std(a):.2f}" for a in reached.values()),
            )
    return table


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    sparsities = [float(s) for s in flags.FLAGS.sparsities]
    console = Console()
    console.print(measure(sparsities, flags.FLAGS.rounds))
    if flags.FLAGS.epochs:
        dataset = data.mnist()
        console.print(learn(dataset, sparsities, flags.FLAGS.epochs, flags.FLAGS.seeds))


if __name__ == "__main__":
    flags.DEFINE_list("sparsities", ["0.9", "0.95"], "Which sparsities to measure.")
    flags.DEFINE_integer("rounds", 15, "How often each program is timed.", lower_bound=1)
    flags.DEFINE_integer("epochs", 1, "Epochs of MNIST; 0 to train nothing.", lower_bound=0)
    flags.DEFINE_integer("seeds", 3, "Seeds of training.", lower_bound=1)
    app.run(main)
