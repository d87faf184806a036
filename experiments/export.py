"""Writes the trained network of a finished run to a file that other programs read.

    python -m experiments.export --workdir runs/rigl --format onnx --out rigl.onnx

    safetensors  the parameters, each in its smallest form, the batch statistics, the configuration;
                 sparsejax.formats.load reads it
    onnx         the network, for ONNX Runtime and others; it takes "images" and gives "logits"
    stablehlo    the network, for jax.export.deserialize, on CPU, CUDA, ROCm and TPU

The weights off the masks are exact zeros in all three. In the last two the network takes any number
of examples as the data set has them, uint8; what normalises them is in it. They compute in full
float32, also where a device would multiply less exactly by default.

The file is run on the test examples before it gets its name: it must give the logits and the
accuracy of the run's network, and that the accuracy in summary.json. If it does not, the error says
what differs, and there is no file.
"""

import importlib.util
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments import command, runs, train
from experiments.data import Dataset
from experiments.errors import UserError
from experiments.interchange import FORMATS, Format, Forward, Network, forward
from experiments.restore import restore

TOLERANCE = 1e-4
"""How much a logit may differ, as a share of the largest one, or of 1 if all are smaller."""
PRINTED = 5e-5
"""Accuracies that differ by less are shown as the same."""


class Exported(NamedTuple):
    """A file that was written, and how it did.

    Attributes:
      path: the file.
      format: the name of its format.
      nbytes: its size.
      nbytes_dense: the size of the network's arrays, zeros included.
      accuracy: that of the run's network on the test examples.
      exported_accuracy: that of the file.
      difference: the largest between the logits of the two.
    """

    path: Path
    format: str
    nbytes: int
    nbytes_dense: int
    accuracy: float
    exported_accuracy: float
    difference: float


def export(
    workdir: Path, format_name: str, out: Path | None = None, data_dir: Path | None = None
) -> Exported:
    """Writes the network of a finished run, once it has been seen to be the same.

    Args:
      workdir: the folder of the run.
      format_name: of `experiments.interchange.FORMATS`.
      out: the file; one that is there is replaced. None for ``network.FORMAT`` in `workdir`.
      data_dir: where data sets lie; None for the default.

    Returns:
      What was written.

    Raises:
      UserError: if there is no such run, format or folder, what the format needs is not installed,
        or the network cannot be written in it; also if what was written is not the same network.
    """
    format = _format(format_name)
    run = _run(workdir)
    out = out or workdir / f"network.{format_name}"
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"--out: {out}: give a file in a folder that is there")
    experiment, state = restore(run, data_dir)
    original = train.variables(experiment, state)
    masks = train.masks(experiment, state)
    network = Network(
        run.config,
        experiment.model,
        experiment.dataset,
        original | {"params": sparsejax.apply_masks(original["params"], masks)},
        masks,
    )
    assert run.summary is not None  # else it could not be restored
    with jax.default_matmul_precision("float32"):
        expected = _logits(jax.jit(forward(network, original)), network.dataset)
        accuracy = _accuracy(expected, network.dataset)
        _same(accuracy, run.summary["test_accuracy"], "the network restored", "summary.json")
        beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
        try:
            found = _written(beside, format_name, format, network)
            difference = _difference(found, expected)
            exported_accuracy = _accuracy(found, network.dataset)
            _same(exported_accuracy, accuracy, "the network written", "the run's")
            os.replace(beside, out)
        finally:
            beside.unlink(missing_ok=True)
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))
    size = out.stat().st_size
    return Exported(out, format_name, size, dense, accuracy, exported_accuracy, difference)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"--format: {name!r} is unknown; allowed: {', '.join(FORMATS)}")
    format = FORMATS[name]
    for module in format.needs:
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"--format={name} needs {module}: pip install 'sparsejax[{format.extra}]'"
            )
    return format


def _run(workdir: Path) -> runs.Run:
    if not (workdir / "config.json").is_file():
        raise UserError(f"--workdir: {workdir}: no run is there; give the folder of one run")
    run = runs.read(workdir)
    if procedure := run.config.get("procedure"):
        name = procedure if isinstance(procedure, str) else procedure["name"]
        raise UserError(
            f"--workdir: {workdir} belongs to the procedure {name}, which makes several networks; "
            "give the folder of a run that trains one"
        )
    return run


def _written(path: Path, name: str, format: Format, network: Network) -> np.ndarray:
    """Writes the file, and returns the logits that it gives."""
    try:
        format.write(path, network)
        return _logits(format.read(path, network), network.dataset)
    except Exception as error:  # each converter and each runtime has its own types
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"--format={name}: the {type(network.model).__name__} cannot be written in it, or not "
            f"be run: {reason}; the other formats are {', '.join(sorted(FORMATS.keys() - {name}))}"
        ) from error


def _batches(dataset: Dataset) -> Iterator[np.ndarray]:
    """The test examples, in batches of several sizes: the first example comes alone."""
    images = np.asarray(dataset.test.images)
    size = max(1, 1000 // dataset.answers)
    yield images[:1]
    for start in range(1, len(images), size):
        yield images[start : start + size]


def _logits(network: Forward, dataset: Dataset) -> np.ndarray:
    return np.concatenate([np.asarray(network(images)) for images in _batches(dataset)])


def _accuracy(logits: np.ndarray, dataset: Dataset) -> float:
    return float((logits.argmax(-1) == np.asarray(dataset.test.labels)).mean())


def _same(accuracy: float, expected: float, name: str, expected_name: str) -> None:
    if not abs(accuracy - expected) < PRINTED:
        raise UserError(
            f"the test accuracy of {name} is {accuracy:.2%}, and that of {expected_name} "
            f"{expected:.2%}; nothing was written"
        )


def difference_of(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference between logits, and how large it may be by rounding.

    Example:
      >>> difference, allowed = difference_of(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
      >>> difference, allowed == 4 * TOLERANCE
      (2.0, True)
    """
    difference = float(np.abs(found - expected).max())
    return difference, TOLERANCE * max(1.0, float(np.abs(expected).max()))


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between logits, if it is no more than that of rounding."""
    if found.shape != expected.shape:
        raise UserError(
            f"the network written gives logits of the shape {found.shape}, and that of the run "
            f"{expected.shape}; nothing was written"
        )
    difference, allowed = difference_of(found, expected)
    if not difference <= allowed:  # also if it is not a number
        raise UserError(
            f"the logits of the network written differ from those of the run's by {difference:.1e}"
            f", where {allowed:.1e} is allowed; nothing was written"
        )
    return difference


def table(exported: Exported) -> Table:
    """Returns the table of what was written.

    Args:
      exported: what `export` returned.

    Returns:
      What `rich.print` shows.

    Example:
      >>> table(Exported(Path("a"), "onnx", 90, 80, 0.5, 0.5, 1e-7)).row_count
      1
    """
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    shown.add_column("format")
    for heading in ("bytes", "bytes dense", "test accuracy", "exported", "largest difference"):
        shown.add_column(heading, justify="right")
    shown.add_row(
        exported.format,
        f"{exported.nbytes:,}",
        f"{exported.nbytes_dense:,}",
        f"{exported.accuracy:.2%}",
        f"{exported.exported_accuracy:.2%}",
        f"{exported.difference:.1e}",
    )
    return shown


def main() -> None:
    """Writes the network of the run that ``--workdir`` names."""
    given = flags.FLAGS
    out = Path(given.out) if given.out else None
    exported = export(Path(given.workdir), given.format, out, command.data_dir())
    console = Console()
    console.print(table(exported))
    console.print(f"The network is {exported.path}.", highlight=False)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of the finished run.")
    flags.DEFINE_string("format", None, f"What to write: {', '.join(FORMATS)}.")
    flags.DEFINE_string(
        "out",
        None,
        "The file to write; one that is there is replaced. By default network.FORMAT in the run's "
        "folder.",
    )
    command.define_data_dir()
    command.run(main, required=["workdir", "format"])
