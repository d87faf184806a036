"""The networks of `experiments.benchmarks.inference`: trained, pruned, and cut to what is left.

All are pruned little by little while they train, by magnitude: single weights as by
`sparsejax.gmp` with ERK, or units as a whole, by `sparsejax.prune_units`.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import build, records, train
from experiments.config import default
from experiments.data import Dataset
from experiments.interchange import Network
from sparsejax import schedules
from sparsejax.coupling.groups import Group
from sparsejax.surgery import living_units, remove_units

Kind = Literal["dense", "weights", "units"]
"""What is pruned."""


class Setting(NamedTuple):
    """A network, and how it is trained and pruned.

    Attributes:
      data: the data set, as a configuration has it.
      model: the model, likewise.
      widths: the argument of the model that says how many units each layer has.
      units: what the units are called.
      pruned: the share that is pruned of each kind.
      batch_size: examples a step.
      steps_per_dispatch: as in a configuration; 1 for convolutions.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    widths: str
    units: str
    pruned: dict[Kind, float]
    batch_size: int = 128
    steps_per_dispatch: int = 50


MNIST: dict[str, Any] = {"name": "mnist"}
NETWORKS = {
    "lenet300": Setting(
        MNIST, {"name": "lenet300"}, "widths", "neurons", {"weights": 0.95, "units": 0.9}
    ),
    "mlp": Setting(
        MNIST,
        {"name": "lenet300", "widths": (2048, 2048)},
        "widths",
        "neurons",
        {"weights": 0.95, "units": 0.9},
    ),
    "resnet20": Setting(
        {"name": "cifar10", "validation": 1000},  # a look at them takes long
        {"name": "resnet20"},
        "inner",
        "channels",
        {"units": 0.75},
        batch_size=64,
        steps_per_dispatch=1,
    ),
}
"""By name. Of ResNet-20 those channels are pruned that lie between a block's convolutions."""


class Trained(NamedTuple):
    """What a training run has come to.

    Attributes:
      network: the network, exactly 0 off its masks.
      accuracy: on the test examples, as the run has measured it.
      groups: its units.
    """

    network: Network
    accuracy: float
    groups: list[Group]


def configuration(setting: Setting, kind: Kind, steps: int) -> ConfigDict:
    """The configuration of a run: Adam with a cosine decay.

    Pruned units are not in it, since no rule of a configuration has them; `train_network` adds
    them.
    """
    config = default()
    config.data, config.model = ConfigDict(setting.data), ConfigDict(setting.model)
    config.batch_size, config.steps_per_dispatch = setting.batch_size, setting.steps_per_dispatch
    config.steps, config.log_every = steps, min(50, steps)
    config.eval_every = -(-steps // config.log_every) * config.log_every  # at the end alone
    rate = {"name": "cosine_decay_schedule", "init_value": 2e-3, "decay_steps": steps}
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": rate})
    if kind == "weights":
        rule = {"name": "gmp", "sparsity": setting.pruned[kind], "distribution": "erk"}
        config.rule = ConfigDict(rule | _times(steps))
    return config


def _times(steps: int) -> dict[str, int]:
    """When is pruned."""
    return {"begin": steps // 5, "end": steps * 3 // 4, "period": max(1, steps // 20)}


def train_network(
    setting: Setting,
    kind: Kind,
    steps: int,
    workdir: Path,
    data_dir: Path | None = None,
    console: Console | None = None,
) -> Trained:
    """Trains a network, or reads it back where it has been trained.

    Args:
      setting: which one.
      kind: what of it is pruned.
      steps: of training.
      workdir: the run's folder.
      data_dir: where data sets lie; None for the default.
      console: where progress is shown; None for standard output.

    Raises:
      UserError: if data are missing, or the folder belongs to another configuration.
    """
    config = configuration(setting, kind, steps)
    experiment = train.prepare(config, data_dir)
    state = jax.eval_shape(functools.partial(train.init, experiment))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    groups = units(experiment.model, variables, experiment.dataset)
    if kind == "units":
        times = _times(steps)
        share = schedules.cubic(times["begin"], times["end"], setting.pruned[kind], 0.0)
        rule = sparsejax.prune_units(groups, share, when=schedules.every(**times))
        optimizer = sparsejax.sparsify(experiment.optimizer, rule)
        experiment = experiment._replace(optimizer=optimizer, sparse=True, start_sparse=True)
    records.claim(workdir, config)
    begin = functools.partial(train.init, experiment)
    result = train.fit(config, workdir, experiment, begin, console=console or Console())
    assert result.summary is not None  # nobody stops it
    variables = train.variables(experiment, result.state)
    masks = train.masks(experiment, result.state)
    variables["params"] = sparsejax.apply_masks(variables["params"], masks)
    network = Network(config.to_dict(), experiment.model, experiment.dataset, variables, masks)
    return Trained(network, result.summary["test_accuracy"], groups)


def units(model: nn.Module, variables: dict[str, Any], dataset: Dataset) -> list[Group]:
    """Returns the units that one layer alone makes, in the order of the layers.

    Of a residual network these are the channels within its blocks: those that the shortcuts carry
    are made by several layers, and the definition of the network has to be another without them.
    So do Li et al. 2017, arXiv 1608.08710.

    Args:
      model: the network.
      variables: its ``params`` and ``batch_stats``, or their shapes.
      dataset: what it classifies.
    """
    found = sparsejax.coupled_groups(
        lambda params, stats, images: model.apply(
            {"params": params, "batch_stats": stats}, images, train=False
        ),
        variables["params"],
        dataset.normalise(dataset.test.images[:1]),
        state=variables["batch_stats"],
    ).groups

    def layers(group: Group) -> int:
        makers = [m.path for m in group.members if m.role == "producer"]
        return sum(path.endswith("kernel") for path in makers)

    return [group for group in found if layers(group) == 1]


def cut(network: Network, groups: Sequence[Group], widths: str) -> Network:
    """Returns the network without its dead units, physically smaller.

    Args:
      network: the network.
      groups: its units.
      widths: the argument of its model that says how many there are of each group.
    """
    params = network.variables["params"]
    alive = living_units(groups, network.masks, params)
    smaller = remove_units(groups, alive, params, state=network.variables["batch_stats"])
    config = ConfigDict(network.config)
    config.model[widths] = tuple(int(lives.sum()) for lives in alive)
    return Network(
        config.to_dict(),
        build.model(config, network.dataset.classes),
        network.dataset,
        {"params": smaller.params, "batch_stats": smaller.state},
        sparsejax.dense_masks(smaller.params),
    )
