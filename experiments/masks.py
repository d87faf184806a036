"""Compares the masks of finished runs: what they share, and what they have removed.

    python -m experiments.masks runs/sweep --out masks.png

Prints, for each pair of runs, which share of their connections is the same, beside the share that
two random choices of as many connections in each layer would have; and for each layer its density,
the neurons that it takes nothing from, and those that are dead or duplicated. The picture shows the
first, as a matrix, and where the first layer is fully connected the connections that each pixel has
kept. All runs must be of one model.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments import command, figures, records, runs, train
from experiments.errors import UserError
from experiments.restore import restore
from sparsejax import metrics
from sparsejax.typing import Masks, Params


class Network(NamedTuple):
    """The trained network of a run.

    Attributes:
      name: what sets the run apart from the others.
      params: the parameters.
      masks: the mask tree.
      image_shape: height, width and channels of its images.
    """

    name: str
    params: Params
    masks: Masks
    image_shape: tuple[int, ...]


def networks(root: Path, data_dir: Path | None = None) -> list[Network]:
    """Loads the trained networks of all finished runs with masks in a folder.

    Args:
      root: the folder of a run, or of several.
      data_dir: where data sets lie; None for the default.

    Returns:
      The networks, in the order of their names.

    Raises:
      UserError: if there is no such run, a run cannot be loaded, or the models differ.
    """
    finished = [
        run
        for run in runs.find(root)
        if run.state == "finished" and run.config["rule"] and not run.config["procedure"]
    ]
    if not finished:
        raise UserError(f"{root}: there is no finished run with masks in it; train one first")
    flats = [records.flat(run.config) for run in finished]
    keys = runs.differing([run.config for run in finished])
    loaded = []
    for run, flat in zip(finished, flats, strict=True):
        own = [(key.removeprefix("rule.").removesuffix("name"), key) for key in keys if key in flat]
        texts = [f"{short}={flat[key]}".removeprefix("=") for short, key in own]
        loaded.append(_load(run, " ".join(texts) or run.path.resolve().name, data_dir))
    shapes = [jax.tree.map(np.shape, network.params) for network in loaded]
    for network, shape in zip(loaded, shapes, strict=True):
        if shape != shapes[0]:
            raise UserError(
                f"{root}: {network.name} has other parameters than {loaded[0].name}; give runs of "
                "one model"
            )
    return sorted(loaded, key=lambda network: network.name)


def _load(run: runs.Run, name: str, data_dir: Path | None) -> Network:
    experiment, state = restore(run, data_dir)
    shape = experiment.dataset.train.images.shape[1:]
    return Network(name, state.params, train.masks(experiment, state), shape)


def layers(networks: Sequence[Network]) -> Table:
    """Returns the table of what each network's layers have lost.

    Args:
      networks: the networks.

    Returns:
      What `rich.print` shows.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("run", "layer"):
        table.add_column(heading)
    for heading in ("density", "unused inputs", "dead neurons", "duplicated"):
        table.add_column(heading, justify="right")
    for network in networks:
        densities = metrics.densities(network.params, network.masks)
        found = sparsejax.neurons(network.params, network.masks)
        for i, (path, n) in enumerate(found.items()):
            table.add_row(
                "" if i else network.name,
                path,
                f"{densities[path]:.2%}",
                f"{n.unused} of {n.inputs}",
                f"{n.dead} of {n.outputs}",
                str(n.duplicated),
                end_section=i == len(found) - 1,
            )
    return table


def overlaps(networks: Sequence[Network]) -> np.ndarray:
    """Returns what each two networks' masks share, and what chance would give them.

    Args:
      networks: n networks of one model.

    Returns:
      Jaccard's index of all layers together, measured and by chance, ``[2, n, n]``.
    """
    n = len(networks)
    found = np.ones((2, n, n))
    for i, one in enumerate(networks):
        for j, other in enumerate(networks):
            shared = sparsejax.overlap(one.params, one.masks, other.masks)[""]
            found[:, i, j] = shared.share, shared.chance_share
    return found


def overlap_table(networks: Sequence[Network], found: np.ndarray) -> Table:
    """Returns the table of what each two networks share, with chance in brackets.

    Args:
      networks: the networks.
      found: what `overlaps` returned for them.

    Returns:
      What `rich.print` shows.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("shared connections (by chance)")
    for i in range(len(networks)):
        table.add_column(str(i + 1), justify="right")
    for i, network in enumerate(networks):
        cells = (f"{found[0, i, j]:.1%} ({found[1, i, j]:.1%})" for j in range(i))
        table.add_row(f"{i + 1}  {network.name}", *cells)
    return table


def picture(path: Path, networks: Sequence[Network], found: np.ndarray) -> None:
    """Draws what the networks share, and the connections that each of their pixels has kept.

    Args:
      path: the file, of a type that matplotlib knows by its ending; written whole or not at all.
      networks: the networks.
      found: what `overlaps` returned for them.
    """
    images = _receptive_fields(networks)
    columns = min(4, max(1, len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(4 + 2.4 * columns * bool(images), max(4.2, 2.6 * rows)), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    parts: Any = figure.subfigures(1, 2 if images else 1, squeeze=False)[0]
    _matrix(parts[0].subplots(), found)
    if images:
        axes = parts[1].subplots(rows, columns, squeeze=False).ravel()
        most = max(1, *(int(image.max()) for image in images))
        for ax in axes:
            ax.set_visible(False)
        for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
            ax.set_visible(True)
            drawn = figures.pixels(ax, f"{i + 1}", image, most)
        scale = parts[1].colorbar(drawn, ax=axes, shrink=0.6, aspect=25)
        scale.set_label("connections kept to a pixel", color=figures.INK)
        scale.outline.set_visible(False)
    figures.save(figure, path)


def _matrix(ax: Any, found: np.ndarray) -> None:
    """Colour is agreement beyond chance: 0 where it is what chance gives, 1 where all is shared."""
    beyond = (found[0] - found[1]) / np.maximum(1 - found[1], 1e-12)
    figures.plain(ax, "shared beyond chance")
    ax.imshow(beyond, cmap="Oranges", vmin=0, vmax=1)
    ticks = range(len(beyond))
    ax.set(xticks=ticks, yticks=ticks)
    ax.set_xticklabels([f"{i + 1}" for i in ticks])
    ax.set_yticklabels([f"{i + 1}" for i in ticks])
    ax.spines[:].set_visible(False)
    if len(beyond) <= 12:
        for (i, j), value in np.ndenumerate(beyond):
            colour = "white" if value > 0.55 else figures.INK
            ax.text(j, i, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=8)


def _receptive_fields(networks: Sequence[Network]) -> list[np.ndarray]:
    """The connections to each pixel, where a fully connected layer takes the images; else none."""
    images = []
    for network in networks:
        height, width, channels = network.image_shape
        masks = [np.asarray(mask) for mask in jax.tree.leaves(network.masks)]
        of_pixels = [m for m in masks if m.ndim == 2 and len(m) == height * width * channels]
        if not of_pixels:
            return []
        images.append(figures.connections_per_pixel(of_pixels[0], network.image_shape))
    return images


def main() -> None:
    """Compares the runs of the folder that ``--workdir`` names."""
    root, out = Path(flags.FLAGS.workdir), Path(flags.FLAGS.out)
    if not root.is_dir():
        raise UserError(f"--workdir: {root}: no such folder; give one that holds runs")
    if out.suffix not in (".pdf", ".png", ".svg") or not out.absolute().parent.is_dir():
        raise UserError(f"--out: {out}: give a .png, .svg or .pdf file in a folder that is there")
    console = Console()
    loaded = networks(root, command.data_dir())
    found = overlaps(loaded)
    console.print(layers(loaded))
    if len(loaded) > 1:
        console.print(overlap_table(loaded, found))
    picture(out, loaded, found)
    console.print(f"The picture is {out}.")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The folder of the runs.")
    flags.DEFINE_string("out", "masks.png", "The picture to write, PNG, SVG or PDF.")
    command.define_data_dir()
    command.run(main, required=["workdir"])
