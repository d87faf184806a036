"""Trained networks in files that other programs read: safetensors, ONNX and StableHLO.

ONNX and StableHLO hold the whole network: they take examples as the data set has them, uint8, of
any number, and give logits. Safetensors holds its parameters and its configuration.
"""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import export

import sparsejax
from experiments.data import Dataset
from sparsejax.formats import file
from sparsejax.typing import Masks

# Without a GPU or a TPU at hand a program for them can still be made.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Forward = Callable[[np.ndarray], Any]
"""The network: examples as the data set has them -> logits."""


class Network(NamedTuple):
    """A trained network.

    Attributes:
      config: the configuration of its run, as JSON holds it.
      model: maps ``(images, train)`` to logits.
      dataset: what it was trained on; its images are normalised before the model takes them.
      variables: the model's ``params``, exactly 0 off their masks, and its ``batch_stats``.
      masks: the masks of the parameters.
    """

    config: dict[str, Any]
    model: nn.Module
    dataset: Dataset
    variables: dict[str, Any]
    masks: Masks


class Format(NamedTuple):
    """How a network is written, and how what was written is run.

    Attributes:
      write: ``(path, network)``, writes the file.
      read: ``(path, network) -> forward``, what the file holds. Of the network it uses what the
        file does not have, never the parameters.
      needs: the modules that have to be installed.
      extra: the extra of sparsejax that installs them.
    """

    write: Callable[[Path, Network], None]
    read: Callable[[Path, Network], Forward]
    needs: tuple[str, ...]
    extra: str


def forward(network: Network, variables: dict[str, Any]) -> Forward:
    """Returns a network's forward pass with some variables, normalisation included.

    Args:
      network: the network.
      variables: in the place of its own.

    Returns:
      The pass, not compiled.
    """

    def apply(images: Any) -> Any:
        return network.model.apply(variables, network.dataset.normalise(images), train=False)

    return apply


def _input(network: Network) -> jax.ShapeDtypeStruct:
    """Any number of examples."""
    (batch,) = export.symbolic_shape("batch")
    images = network.dataset.test.images
    return jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)


def _write_safetensors(path: Path, network: Network) -> None:
    dense = {key: sparsejax.dense_masks(value) for key, value in network.variables.items()}
    sparsejax.formats.save(
        path, network.variables, dense | {"params": network.masks}, network.config
    )


def _read_safetensors(path: Path, network: Network) -> Forward:
    return jax.jit(forward(network, sparsejax.formats.load(path).params))


def _write_stablehlo(path: Path, network: Network) -> None:
    program = jax.jit(forward(network, network.variables))
    exported = export.export(program, platforms=_PLATFORMS)(_input(network))
    file.write_whole(path, bytes(exported.serialize()))


def _read_stablehlo(path: Path, network: Network) -> Forward:
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def _write_onnx(path: Path, network: Network) -> None:
    with _quiet():
        import jax2onnx

        model = jax2onnx.to_onnx(
            forward(network, network.variables),
            [_input(network)],
            model_name=type(network.model).__name__,
            input_names=["images"],
            output_names=["logits"],
        )
    # Of the arrays between the layers it notes the shapes before it has moved transpositions about,
    # and ONNX Runtime trusts the notes. Without them it finds the shapes itself.
    del model.graph.value_info[:]
    file.write_whole(path, model.SerializeToString())


def _read_onnx(path: Path, network: Network) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is fatal; the rest comes as an exception
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": np.asarray(images)})[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps jax2onnx from telling of its own matters, and from loading what is not needed.

    It loads its converters for every library with the first network, and compiles their examples:
    a quarter of a minute for those that are left out here.
    """
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    left_out = [f"jax2onnx.plugins.{name}" for name in ("dm_pix", "equinox", "examples")]
    blocked = [name for name in left_out if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in blocked:
            del sys.modules[name]


FORMATS: Mapping[str, Format] = {
    "onnx": Format(_write_onnx, _read_onnx, ("jax2onnx", "onnxruntime"), "export"),
    "safetensors": Format(_write_safetensors, _read_safetensors, ("safetensors",), "files"),
    "stablehlo": Format(_write_stablehlo, _read_stablehlo, ("flatbuffers",), "export"),
}
"""By the name that ``--format`` takes, which is also how their files end."""
