"""Trains a dense and a sparse network on handwritten digits, and shows what each costs.

    python -m experiments.demo

The two LeNet-300-100 see the same digits in the same order and begin with the same weights; one of
them keeps a tenth of its connections and moves them by RigL (Evci et al., arXiv 1911.11134) to
where the gradient is large. The digits are part of scikit-learn, nothing is downloaded.

The runs lie in the directory --workdir, each in a folder of its own as `experiments.main` makes
it, beside demo.png. Given again, the command continues a run that was interrupted, and shows the
results of finished ones without training anew; remove the directory to start over.
"""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict
from rich.console import Console

from experiments import figures
from experiments.config import default
from experiments.errors import UserError
from experiments.train import Experiment, Result, TrainState, counts, init, prepare, train
from sparsejax import get_masks, metrics

SPARSITY = 0.9
PERIOD = 10


def configs(steps: int) -> dict[str, ConfigDict]:
    """Returns the configuration of each run by its name; they differ in the mask rule alone."""
    dense = default()
    dense.steps = steps
    dense.log_every = dense.eval_every = max(1, steps // 20)
    decay = {"name": "cosine_decay_schedule", "init_value": 2e-3, "decay_steps": steps}
    dense.optimizer = ConfigDict({"name": "adam", "learning_rate": decay})
    # Makes connections to pixels that are always blank fade, so that RigL takes them elsewhere.
    dense.weight_decay = 1e-3
    rigl = dense.copy_and_resolve_references()
    rigl.rule = {
        "name": "rigl",
        "sparsity": SPARSITY,
        "distribution": "erk",
        "period": PERIOD,
        "end": steps * 3 // 4,
    }
    return {"dense": dense, "RigL": rigl}


def demo(workdir: Path, steps: int, console: Console) -> list[figures.Result]:
    """Trains both networks, prints the table and draws the picture.

    Args:
      workdir: the directory of the runs, created if there is none. What is there of the same
        demonstration is continued or shown, not repeated.
      steps: optimizer steps of each run.
      console: where progress and the table are shown.

    Returns:
      The rows of the table: dense, RigL.

    Raises:
      UserError: if the directory holds runs of other steps.
    """
    results, curves = [], []
    for name, config in configs(steps).items():
        console.rule(f"LeNet-300-100 on handwritten digits, {name}", align="left")
        run = train(config, workdir / name.lower(), console=console)
        experiment = prepare(config)
        results.append(_result(name, experiment, run))
        curves.append(_curve(name, run))
    console.print(figures.table(results))

    # The last run is RigL's.

    start = jax.jit(functools.partial(init, experiment))()
    images = {
        "RigL's connections at the start": _per_pixel(experiment, start),
        "and at the end": _per_pixel(experiment, run.state),
    }
    title = f"LeNet-300-100 on handwritten digits: dense, and {SPARSITY:.0%} sparse by RigL"
    path = workdir / "demo.png"
    figures.picture(path, title, curves, images)
    console.print(f"The picture is {path}; the runs are in {workdir}, remove it to start over.")
    return results


def _result(name: str, experiment: Experiment, run: Result) -> figures.Result:
    """The costs of a run, for one example."""
    summary = run.summary
    assert summary is not None  # it was not stopped
    flops, nbytes = summary["flops"], summary["bytes"]
    return figures.Result(
        name=name,
        accuracy=summary["test_accuracy"],
        weights=counts(experiment, run.state),
        forward=(flops["sparse"], flops["dense"]),
        training=(flops["training"], metrics.training_flops("dense", flops["dense"])),
        nbytes=(nbytes["sparse"], nbytes["dense"]),
    )


def _curve(name: str, run: Result) -> figures.Curve:
    """The validation accuracy, and the sparsity at the same steps."""
    accuracy = {
        line["step"]: line["accuracy"] for line in run.history if line["kind"] == "validation"
    }
    sparsity = {line["step"]: line["sparsity"] for line in run.history if line["kind"] == "train"}
    steps = list(accuracy)
    return figures.Curve(name, steps, list(accuracy.values()), [sparsity[step] for step in steps])


def _per_pixel(experiment: Experiment, state: TrainState) -> np.ndarray:
    mask = np.asarray(get_masks(state.opt_state)["Dense_0"]["kernel"])
    return figures.connections_per_pixel(mask, experiment.dataset.train.images.shape[1:])


def main(argv: list[str]) -> None:
    """Runs the demonstration that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)  # else absl shows every note of every library
    try:
        demo(Path(flags.FLAGS.workdir), flags.FLAGS.steps, Console())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/demo", "The directory of the runs and the picture.")
    flags.DEFINE_integer("steps", 1000, "Optimizer steps of each run.", lower_bound=1)
    app.run(main)
