"""Data files with generated content, and a configuration that trains in a moment."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import data
from experiments.config import default

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
def tiny() -> ConfigDict:
    """A run of 12 steps on the digits, saved after every fourth."""
    config = default()
    config.model.widths = ()
    config.rule = ConfigDict({"name": "rigl", "sparsity": 0.8, "period": 3, "end": 9})
    config.batch_size, config.steps, config.log_every, config.eval_every = 32, 12, 2, 4
    return config
