"""Data files with generated content, and a configuration that trains in a moment."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import data, records
from experiments.config import default
from experiments.models import resnet, wide_resnet

IDX_PARTS = {"train": 300, "t10k": 60}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes uint8 values as an IDX file, compressed if its name ends in .gz."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def idx_directory(tmp_path_factory) -> Callable[..., Path]:
    """A function that writes a data set of 28x28 images, and gives its data directory."""

    def write(name: str = "mnist", suffix: str = "") -> Path:
        directory = tmp_path_factory.mktemp("data")
        rng = np.random.default_rng(0)
        for part, n in IDX_PARTS.items():
            images = rng.integers(0, 256, (n, 28, 28), np.uint8)
            labels = np.arange(n) % 10
            write_idx(directory / name / f"{part}-images-idx3-ubyte{suffix}", images)
            write_idx(directory / name / f"{part}-labels-idx1-ubyte{suffix}", labels)
        return directory

    return write


@pytest.fixture(scope="session")
def text_directory(tmp_path_factory) -> Path:
    """A data directory with a text of 12,900 characters, of which there are 27."""
    path = tmp_path_factory.mktemp("data") / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    numbers = np.random.default_rng(0).integers(0, 27, 12_900)
    path.write_text("".join(" abcdefghijklmnopqrstuvwxyz"[i] for i in numbers))
    return path.parents[1]


@pytest.fixture
def cifar_directory(tmp_path, monkeypatch) -> Path:
    """A data directory with a CIFAR-10 of 20 images a file."""
    monkeypatch.setattr(data, "CIFAR_RECORDS", 20)
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(folder / name)
    return tmp_path / "data"


@pytest.fixture
def shallow(monkeypatch) -> None:
    """Makes ResNet-20 and WRN-22-2 with one block in each stage in place of three."""
    for module, name in ((resnet, "ResNet"), (wide_resnet, "WideResNet")):
        deep = getattr(module, name)
        monkeypatch.setattr(module, name, lambda _, *sizes, deep=deep: deep(1, *sizes))


def tiny_config() -> ConfigDict:
    """Returns a run of 12 steps on the digits, saved after every fourth."""
    config = default()
    config.model.widths = ()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 3, "end": 9})
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 12, 2, 4
    return config


@pytest.fixture
def tiny() -> ConfigDict:
    """A copy of its own of `tiny_config`."""
    return tiny_config()


def write_run(
    folder: Path,
    rule: dict | None,
    seed: int,
    *,
    accuracy: float | None,
    error: str | None = None,
    evaluations: int = 5,
    **config,
) -> None:
    """Writes what a run leaves, without training: with no accuracy, of one that is not finished."""
    rule = rule and {"sparsity": 0.9} | rule
    sparsity = rule["sparsity"] if rule else 0.0
    config = {"rule": rule, "seed": seed, "steps": 100 * evaluations} | config
    folder.mkdir(parents=True)
    records.write_json(folder / "config.json", config)
    lines = []
    for i in range(evaluations if error is None else 1):
        line = {"step": 100 * (i + 1), "loss": 1 / (i + 1)}
        lines.append(line | {"kind": "train", "accuracy": 0.5, "sparsity": sparsity})
        value = (accuracy or 0.5) * (1 - 0.5 ** (i + 1))
        density = {"Dense_0/kernel": 1 - sparsity, "Dense_10/kernel": 1.0, "Dense_2/kernel": 0.5}
        line = line | {"kind": "validation", "accuracy": value, "density": density}
        lines.append(line | ({"churn": 0.5 ** (i + 2), "explored": 0.1 * i} if rule else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if error is not None:
        (folder / "error.txt").write_text(error)
    elif accuracy is not None:
        summary = {
            "test_accuracy": accuracy,
            "validation_accuracy": lines[-1]["accuracy"],
            "sparsity": sparsity,
            "kept": round(1000 * (1 - sparsity)),
            "total": 1000,
            "flops": {"dense": 2000, "sparse": 2000 * (1 - sparsity), "training": None},
            "bytes": {"dense": 4000, "sparse": round(125 + 4000 * (1 - sparsity))},
            "seconds": 1.5,
            "step": lines[-1]["step"],
        }
        records.write_json(folder / "summary.json", summary)
