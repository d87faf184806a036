"""What does sparse training cost over dense training?

    python -m experiments.benchmarks.overhead [--models lenet300,resnet20] [--rounds 7]

Prints, as multiples of a dense training step, a step that leaves the masks alone, a step that
updates them, the average with one update in 100 steps, and the bytes that the compiled program
holds at its peak. Masks of straight-through methods are updated at every step, so their average is
that of an update.

Small steps run many to a program (`lax.scan`), large ones one by one, with donated state, as the
training loop runs them: on a CPU, XLA has no fast convolutions inside of a loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments import models
from experiments.benchmarks.timing import interleaved, ratio

SPARSITY = 0.9
NEVER = 2**30


class Setting(NamedTuple):
    """A model and how it is trained.

    Attributes:
      model: A flax module, called with images and `train`.
      images: The shape of a batch.
      optimizer: Makes the optimizer.
      steps: How many steps one timed program takes.
    """

    model: Any
    images: tuple[int, ...]
    optimizer: Callable[[], optax.GradientTransformation]
    steps: int


SETTINGS = {
    "lenet300": Setting(models.lenet300(), (128, 28, 28, 1), lambda: optax.adam(1e-3), 100),
    "resnet20": Setting(
        models.resnet20(), (64, 32, 32, 3), lambda: optax.sgd(0.1, momentum=0.9), 1
    ),
}

# Each method as a function of the steps between two updates of its masks.
METHODS = {
    "static": lambda period: sparsejax.static(SPARSITY),
    "gmp": lambda period: sparsejax.gmp(
        SPARSITY, initial_sparsity=0.8, begin=1, end=NEVER + 1, period=period
    ),
    "set": lambda period: sparsejax.set_(SPARSITY, period=period),
    "rigl": lambda period: sparsejax.rigl(SPARSITY, period=period),
    "ste": lambda period: sparsejax.ste_magnitude(SPARSITY),
}


def training(setting: Setting, tx: optax.GradientTransformation, rule: bool) -> Any:
    """Returns a compiled program of several steps, and the state that it starts from."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], setting.images)
    labels = jax.random.randint(keys[1], setting.images[:1], 0, 10)
    variables = setting.model.init(keys[2], images[:1], train=False)
    params, opt_state = variables["params"], tx.init(variables["params"])
    if rule:
        params = sparsejax.apply_masks(params, sparsejax.get_masks(opt_state))

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
        params, stats, opt_state = state

        def loss_of(params: Any) -> Any:
            used = sparsejax.forward_params(params, opt_state) if rule else params
            logits, new = setting.model.apply(
                {"params": used} | stats, images, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, new

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    def run(state: Any) -> Any:
        if setting.steps == 1:
            return step(state, None)
        return jax.lax.scan(step, state, length=setting.steps)

    stats = {name: value for name, value in variables.items() if name != "params"}
    state = (params, stats, opt_state)
    return jax.jit(run, donate_argnums=0).lower(state).compile(), state


def program(compiled: Any, state: Any) -> Callable[[], Any]:
    """Each call goes on from the state that the last one left."""
    holder = [jax.tree.map(jnp.copy, state)]

    def call() -> Any:
        holder[0], losses = compiled(holder[0])
        return losses

    return call


def bytes_needed(compiled: Any) -> int:
    """All that a program holds at once: its arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes  # donated state, counted twice
    )


def measure(setting: Setting, rounds: int) -> Table:
    """Times all methods on one model, in turn, and tabulates them against dense training."""
    compiled = {"dense": training(setting, setting.optimizer(), rule=False)}
    for name, method in METHODS.items():
        for kind, period in (("normal", NEVER), ("update", 1)):
            if name == "ste":
                tx = optax.chain(setting.optimizer(), method(period))
            else:
                tx = sparsejax.sparsify(setting.optimizer(), method(period))
            compiled[f"{name} {kind}"] = training(setting, tx, rule=True)
    times = interleaved({n: program(*c) for n, c in compiled.items()}, rounds)
    peak = {name: bytes_needed(c) for name, (c, _) in compiled.items()}
    dense = times["dense"]
    table = Table("method", "normal step", "update step", "average at period 100", "peak bytes")
    milliseconds = 1e3 * np.median(dense) / setting.steps
    table.add_row("dense", f"{milliseconds:.3f} ms", "", "1.000 x", f"{peak['dense']:,}")
    for name in METHODS:
        normal, update = times[f"{name} normal"], times[f"{name} update"]
        average = {"static": normal, "ste": update}.get(name, (99 * normal + update) / 100)
        table.add_row(
            name,
            "" if name == "ste" else f"{ratio(normal, dense):.3f} x",
            "" if name == "static" else f"{ratio(update, dense):.3f} x",
            f"{ratio(average, dense):.3f} x",
            f"{peak[f'{name} update'] / peak['dense']:.2f} x",
        )
    return table


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    for name in flags.FLAGS.models:
        table = measure(SETTINGS[name], flags.FLAGS.rounds)
        table.title = f"{name}, batch {SETTINGS[name].images[0]}, {SPARSITY:.0%} sparse"
        Console().print(table)


if __name__ == "__main__":
    flags.DEFINE_list("models", list(SETTINGS), "Which models to measure.")
    flags.DEFINE_integer("rounds", 7, "How often each program is timed.", lower_bound=1)
    app.run(main)
