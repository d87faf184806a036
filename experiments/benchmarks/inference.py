"""What does a sparse network gain when it is used?

    python -m experiments.benchmarks.inference [--networks lenet300,mlp,resnet20] [--epochs 5] \
        [--cifar_epochs 0.3] [--rounds 9] [--workdir DIR]

Trains LeNet-300-100 and an MLP 784-2048-2048-10 on MNIST, and ResNet-20 on CIFAR-10: dense, and
with neurons (of ResNet-20 the channels between a block's two convolutions) pruned as a whole; the
first two also with single weights pruned. ResNet-20 gets a part of an epoch, since a step of it
takes long on a CPU: its accuracies are those of networks that have hardly been trained. With
--workdir what is trained stays there, and is not trained again.

Prints one table, with a row for each program that runs one of these networks:

    dense          XLA's, of the dense network
    masked         the same program; what is pruned are zeros among its numbers
    formats        dense layers multiply with sparse matrices, by `sparsejax.kernels`; kernels of
                   convolutions are kept sparse, and made dense in each call
    after surgery  XLA's, of the network from which pruned neurons or channels are cut out
    onnxruntime    ONNX Runtime's, of a dense network

A row has the accuracy on the test examples, the bytes of the arrays that the program is given, and
of the file that `experiments.export` writes of it (safetensors, or ONNX); for 1 and for 128 images,
uint8 as the data set has them, the median milliseconds, and how many times as fast as the dense
program this is; they take turns of a few calls in a row. A program whose logits are not those of
the network that it was made of ends it all with an error. The data are looked for where --data_dir
or SPARSEJAX_DATA says.
"""

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import build, command, sparse_layers
from experiments.benchmarks.pruned_networks import (
    MNIST,
    NETWORKS,
    Kind,
    Setting,
    Trained,
    configuration,
    cut,
    train_network,
)
from experiments.benchmarks.timing import interleaved, ratio
from experiments.data import Dataset
from experiments.errors import UserError
from experiments.export import difference_of
from experiments.interchange import FORMATS, Network
from sparsejax import formats, kernels

BATCHES = 1, 128
CALLS = 5
KINDS: tuple[Kind, ...] = ("dense", "weights", "units")


class Program(NamedTuple):
    """A way to run a network.

    Attributes:
      name: which one.
      forward: images as the data set has them -> logits.
      memory: the bytes of the arrays that it is given; None where they are its own.
      file: the bytes of the network's file.
      source: where among the programs the one is whose logits it has to give; None for a network
        as it was trained.
    """

    name: str
    forward: Callable[[Any], Any]
    memory: int | None
    file: int
    source: int | None = None


def programs(
    found: Mapping[Kind, Trained], setting: Setting, folder: Path
) -> list[tuple[Kind, Program]]:
    """Returns what runs the networks of a setting, and the kind of each; the dense one first.

    Args:
      found: the networks that were trained.
      setting: theirs.
      folder: where their files are written, which are needed no longer.
    """
    made: list[tuple[Kind, Program]] = []

    def written(format: str, network: Network) -> Path:
        path = folder / f"{len(made)}.{format}"
        FORMATS[format].write(path, network)
        return path

    def add(kind: Kind, name: str, network: Network, run: Any, source: int | None = None) -> int:
        variables = stored(network) if name == "formats" else network.variables
        size = written("safetensors", network).stat().st_size
        forward = functools.partial(run, variables)
        made.append((kind, Program(name, forward, nbytes(variables), size, source)))
        return len(made) - 1

    def add_onnx(kind: Kind, name: str, network: Network, source: int) -> None:
        path = written("onnx", network)
        forward = FORMATS["onnx"].read(path, network)
        made.append((kind, Program(name, forward, None, path.stat().st_size, source)))

    dense = found["dense"].network
    run = compiled(dense)
    add_onnx("dense", "onnxruntime", dense, add("dense", "dense", dense, run))
    for kind in KINDS[1:]:
        if kind in found:
            masked = add(kind, "masked", found[kind].network, run)
            add(kind, "formats", found[kind].network, run, masked)
    if "units" in found:
        small = cut(found["units"].network, found["units"].groups, setting.widths)
        smaller = add("units", "after surgery", small, compiled(small), masked)
        add_onnx("units", "after surgery, onnxruntime", small, smaller)
    return made


def compiled(network: Network) -> Any:
    """Returns XLA's program `(variables, images) -> logits`, whose kernels may be formats."""

    def apply(variables: dict[str, Any], images: jax.Array) -> Any:
        images = network.dataset.normalise(images)
        return sparse_layers.apply(network.model, variables, images, train=False)

    return jax.jit(apply)


def stored(network: Network) -> dict[str, Any]:
    """Returns the variables with pruned kernels in formats.

    Matrices are indexed for products. Other kernels take the format that is the smallest.
    """

    def store(mask: Any, p: jax.Array) -> Any:
        full = np.broadcast_to(mask, p.shape)
        if p.ndim < 2 or full.all():
            return p
        if p.ndim == 2:
            return kernels.index(formats.CSC.from_dense(p, full))
        return formats.choose(full, p.dtype).make(p, full)

    params = jax.tree.map(store, network.masks, network.variables["params"])
    return network.variables | {"params": params}


def nbytes(variables: Any) -> int:
    """Returns the bytes of all arrays, those within formats included."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


def accuracies(made: Sequence[tuple[Kind, Program]], found: Mapping[Kind, Trained]) -> list[float]:
    """Returns the accuracy of each program on the test examples.

    Raises:
      ValueError: if its logits are not those that they have to be.
    """
    result: list[float] = []
    outputs: list[np.ndarray] = []
    for kind, program in made:
        dataset = found[kind].network.dataset
        outputs.append(logits(program.forward, dataset))
        result.append(float((outputs[-1].argmax(-1) == np.asarray(dataset.test.labels)).mean()))
        if program.source is not None:
            same(outputs[-1], outputs[program.source], f"{kind}, {program.name}")
        elif abs(result[-1] - found[kind].accuracy) > 1.5 / len(outputs[-1]):
            # By one answer, which rounding may turn, they may differ.
            raise ValueError(
                f"{kind}, {program.name}: the accuracy is {result[-1]:.2%}, and in training it was "
                f"{found[kind].accuracy:.2%}"
            )
    return result


def logits(forward: Callable[[Any], Any], dataset: Dataset) -> np.ndarray:
    """Returns those of all test examples."""
    images, n = dataset.test.images, BATCHES[-1]
    return np.concatenate(
        [np.asarray(forward(images[i : i + n])) for i in range(0, len(images), n)]
    )


def same(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Raises ValueError if logits differ by more than they do by rounding."""
    difference, allowed = difference_of(found, expected)
    if not difference <= allowed:  # also if it is not a number
        raise ValueError(
            f"{name}: the logits differ by {difference:.1e} from those of the network that it was "
            f"made of, where {allowed:.1e} is allowed"
        )


def measure(
    made: Sequence[tuple[Kind, Program]], images: jax.Array, rounds: int
) -> list[np.ndarray]:
    """Returns the seconds of a call in each round, for each program."""
    calls: dict[str, Callable[[], object]] = {}
    for i, (_, program) in enumerate(made):
        # The threads of the one before look for more work for a moment, as ONNX Runtime's do.
        calls[f"pause {i}"] = functools.partial(time.sleep, 0.002)
        calls[str(i)] = functools.partial(program.forward, images)
    times = interleaved(calls, rounds, calls=CALLS)
    return [times[str(i)] for i in range(len(made))]


def table() -> Table:
    """Returns the table without rows."""
    shown = Table("network", "pruned", "program", title="x: times as fast as the dense program")
    small, large = (f"batch {n}, ms" for n in BATCHES)
    for column in ("accuracy", "bytes in memory", "bytes of file", small, "x", large, "x"):
        shown.add_column(column, justify="right")
    return shown


def add_rows(shown: Table, name: str, found: Mapping[Kind, Trained], rounds: int) -> None:
    """Checks and times all programs of a network, and adds their rows to a table."""
    setting = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        made = programs(found, setting, Path(folder))
    right = accuracies(made, found)
    images = found["dense"].network.dataset.test.images
    # One image takes little time, and can be timed more often.
    times = [measure(made, images[:n], rounds * (10 if n == 1 else 1)) for n in BATCHES]
    for i, (kind, program) in enumerate(made):
        what = setting.units if kind == "units" else kind
        pruned = f"{setting.pruned[kind]:.0%} of {what}" if kind in setting.pruned else "nothing"
        cells = [name if i == 0 else "", pruned if program.source is None else "", program.name]
        cells += [f"{right[i]:.2%}", f"{program.memory:,}" if program.memory else ""]
        cells.append(f"{program.file:,}")
        for seconds in times:
            cells.append(f"{1e3 * np.median(seconds[i]):.3f}")
            cells.append(f"{ratio(seconds[0], seconds[i]):.2f}")
        shown.add_row(*cells)
    shown.add_section()


def steps_of(setting: Setting, epochs: float) -> int:
    """Returns the steps of so many epochs, at least one."""
    data = build.dataset(configuration(setting, "dense", 1), command.data_dir())
    return max(1, round(epochs * (len(data.train.labels) // setting.batch_size)))


def main() -> None:
    # In a file, where rich takes 80 columns, the table would be cut off.
    console = Console(width=None if sys.stdout.isatty() else 150)
    shown, given = table(), flags.FLAGS
    unknown = [name for name in given.networks if name not in NETWORKS]
    if unknown:
        raise UserError(f"--networks: {unknown} are unknown; allowed: {', '.join(NETWORKS)}")
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(given.workdir or temporary)
        for name in given.networks:
            setting = NETWORKS[name]
            epochs = given.epochs if setting.data is MNIST else given.cifar_epochs
            steps = steps_of(setting, epochs)
            found: dict[Kind, Trained] = {}
            for kind in KINDS:
                if kind == "dense" or kind in setting.pruned:
                    console.print(f"[bold]{name}[/], {kind}: {steps:,} steps, {epochs:g} epochs")
                    folder = workdir / name / kind
                    found[kind] = train_network(
                        setting, kind, steps, folder, command.data_dir(), console
                    )
            add_rows(shown, name, found, given.rounds)
    console.print(shown)
    if "resnet20" in given.networks:
        console.print(
            f"resnet20 was trained for {given.cifar_epochs:g} epochs, and 160 are usual: its "
            "accuracies are not what the network can reach."
        )


if __name__ == "__main__":
    flags.DEFINE_list("networks", list(NETWORKS), "Which networks to train and to run.")
    flags.DEFINE_float("epochs", 5, "Epochs of MNIST.", lower_bound=0)
    flags.DEFINE_float("cifar_epochs", 0.3, "Epochs of CIFAR-10.", lower_bound=0)
    flags.DEFINE_integer("rounds", 9, "How often each program is timed.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "Where what is trained stays; by default nowhere.")
    command.define_data_dir()
    command.run(main, required=[])
