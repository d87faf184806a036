"""Sensitivity to pruning: a network is trained densely, then pruned at once, layer by layer.

Han et al., 'Learning both weights and connections for efficient neural networks', arXiv:1506.02626,
figure 6; with all layers together, figure 5 without retraining.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import build, records
from experiments.errors import UserError
from experiments.train import evaluate, fit, init, means, prepare
from sparsejax.distributions import uniform
from sparsejax.typing import Distribution

STAGE = "dense"
"""The folder of the training."""


def sensitivity(
    config: ConfigDict,
    workdir: Path,
    data_dir: Path | None,
    *,
    stop: Callable[[], bool],
    console: Console,
    sparsities: Sequence[float],
    distribution: Distribution = uniform,
) -> dict[str, Any] | None:
    """Trains a dense network and measures how it bears pruning without retraining.

    Args:
      config: the configuration, with no rule.
      workdir: where the files go; the training has the folder ``dense`` in it.
      data_dir: where data sets lie; None for the default.
      stop: asked again and again; when it says True, the training saves. The measurements after it
        are made anew if they are interrupted.
      console: where progress is shown.
      sparsities: the shares of the smallest weights to remove, of each layer alone and of all.
      distribution: shares them among the layers where all are pruned.

    Returns:
      What ``summary.json`` holds, or None if the procedure was stopped: that of the training; in
      ``sensitivity`` a list of the measurements on the test examples, each with ``layer`` (None for
      all together), ``sparsity``, ``accuracy``, ``loss`` and, of text, ``perplexity``; and
      ``stages``.

    Raises:
      UserError: if the configuration, a data file or a working directory is wrong.
    """
    if config.rule is not None:
        raise UserError(
            f"config.rule: {build.name_of(config.rule)!r} is impossible with the procedure "
            "sensitivity, which prunes a dense network; allowed: None"
        )
    if not all(isinstance(s, int | float) and 0 <= s <= 1 for s in sparsities):
        raise UserError(
            f"config.procedure.sparsities: {sparsities!r} is impossible; allowed: numbers in [0, 1]"
        )
    experiment = prepare(config, data_dir)
    records.claim(workdir, config)
    path = workdir / "summary.json"
    if path.exists():
        console.print(f"This run is finished; its results are in {path}.")
        summary: dict[str, Any] = records.read_json(path)
        return summary
    records.claim(workdir / STAGE, config)
    begin = functools.partial(init, experiment)
    trained = fit(config, workdir / STAGE, experiment, begin, stop=stop, console=console)
    if trained.summary is None:
        return None

    examples = experiment.dataset.test
    score = jax.jit(
        lambda params: evaluate(experiment, trained.state._replace(params=params), examples)
    )
    points = []
    for layer, sparsity, sums in sparsejax.sensitivity(
        score, trained.state.params, sparsities, distribution=distribution
    ):
        measures = means(experiment.dataset, [sums], len(examples.labels))
        points.append({"layer": layer, "sparsity": sparsity, **measures})
        console.print(f"{layer or 'all layers'}  {sparsity:.1%}  {measures['accuracy']:.2%}")
        if stop():
            return None
    stage = {key: value for key, value in trained.summary.items() if key != "config"}
    summary = trained.summary | {"sensitivity": points, "stages": {STAGE: stage | {"kind": STAGE}}}
    records.write_json(path, summary)
    return summary
