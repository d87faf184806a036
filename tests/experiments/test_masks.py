"""The comparison of the masks of finished runs."""

import io
import shutil

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from experiments import masks
from experiments.errors import UserError
from experiments.grid import override
from experiments.train import train
from tests.experiments.conftest import tiny_config

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a sparse network, and a dense one. The digits have 64 pixels and 10 classes."""
    folder, tiny = tmp_path_factory.mktemp("trained"), tiny_config()
    for seed in (0, 1):
        train(override(tiny, {"seed": seed}), folder / f"sparse{seed}", console=QUIET)
    train(override(tiny, {"rule": None}), folder / "dense", console=QUIET)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of these runs."""
    return shutil.copytree(trained, tmp_path / "runs")


def text(table):
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    return console.file.getvalue()


def test_masks_are_those_of_the_last_step(folder, tmp_path):
    found = masks.networks(folder)
    assert [network.name for network in found] == ["seed=0", "seed=1"]
    for network in found:
        kernel = np.asarray(jax.tree.leaves(network.params)[1])
        mask = np.asarray(network.masks["Dense_0"]["kernel"])
        assert mask.shape == kernel.shape == (64, 10)
        assert mask.sum() == 128
        assert not kernel[~mask].any()
    # Another seed has other connections; nearly as few are shared as chance gives.
    a, b = (np.asarray(network.masks["Dense_0"]["kernel"]) for network in found)
    shared = masks.overlaps(found)
    assert shared[0, 0, 1] == shared[0, 1, 0] == (a & b).sum() / (a | b).sum()
    assert shared[0, 0, 0] == shared[0, 1, 1] == 1
    assert shared[1, 0, 1] == pytest.approx(25.6 / (256 - 25.6))
    shown = text(masks.layers(found))
    assert shown.count("Dense_0/kernel") == 2 and shown.count("20.00%") == 2
    unused = 64 - int(a.any(1).sum())
    assert f"{unused} of 64" in shown
    assert f"{shared[0, 0, 1]:.1%} (11.1%)" in text(masks.overlap_table(found, shared))

    picture = tmp_path / "masks.png"
    masks.picture(picture, found, shared)
    pixels = imread(picture)
    assert pixels.shape[1] > pixels.shape[0] > 300
    assert np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0).shape[0] > 50


def test_what_cannot_be_compared(folder, tiny, tmp_path):
    with pytest.raises(UserError, match="no finished run with masks"):
        masks.networks(folder / "dense")
    wider = override(tiny, {"model.widths": (3,)})
    train(wider, folder / "wider", console=QUIET)
    with pytest.raises(UserError, match="has other parameters than"):
        masks.networks(folder)


def test_a_run_without_checkpoint_is_told(folder):
    shutil.rmtree(folder / "sparse0" / "checkpoints")
    with pytest.raises(UserError, match="sparse0: the run has no checkpoint"):
        masks.networks(folder)
