"""Pruning after training: a network is trained densely, then pruned at once by several methods.

Beside the smallest weights these are the methods of the literature on language models, which look
at a few batches of data: Wanda (arXiv:2306.11695), SparseGPT (arXiv:2301.00774) and DSnoT
(arXiv:2310.08915). Nothing is retrained.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments import build, records
from experiments.errors import UserError
from experiments.train import Experiment, TrainState, evaluate, fit, init, means, prepare, variables
from sparsejax.typing import Masks, Params, Structure

STAGE = "dense"
"""The folder of the training."""
METHODS = ("magnitude", "wanda", "dsnot", "sparsegpt")
"""What can be named; dsnot begins from the masks of wanda."""
CALIBRATION_BATCH = 16
"""Examples in one forward pass over the calibration data."""


def post_training(
    config: ConfigDict,
    workdir: Path,
    data_dir: Path | None,
    *,
    stop: Callable[[], bool],
    console: Console,
    sparsities: Sequence[float] = (0.5,),
    patterns: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    calibration: int = 128,
) -> dict[str, Any] | None:
    """Trains a dense network, prunes it by each method at each sparsity, and evaluates it.

    A layer is pruned for inputs that come through the pruned layers before it; the layers within
    one of the model's outermost modules, such as a block of a transformer, are pruned together.

    Args:
      config: the configuration, with no rule.
      workdir: where the files go; the training has the folder ``dense`` in it.
      data_dir: where data sets lie; None for the default.
      stop: asked again and again; when it says True, the training saves. What comes after it is
        made anew if it is interrupted.
      console: where progress is shown.
      sparsities: the shares of each layer's weights to remove, unstructured.
      patterns: the N:M patterns, such as ``2:4``, along the inputs.
      methods: the names of the methods, of `METHODS`.
      calibration: number of calibration examples, the first ones in the order of training.

    Returns:
      What ``summary.json`` holds, or None if the procedure was stopped: that of the training; in
      ``post_training`` a list of the pruned networks, each with ``method``, ``target`` (such as
      ``50 %`` or ``2:4``), ``sparsity`` as counted, the measures on the test examples and
      ``prune_seconds``; and ``stages``.

    Raises:
      UserError: if the configuration, a data file or a working directory is wrong.
    """
    if config.rule is not None:
        raise UserError(
            f"config.rule: {build.name_of(config.rule)!r} is impossible with the procedure "
            "post_training, which prunes a dense network; allowed: None"
        )
    for method in methods:
        if method not in METHODS:
            raise UserError(
                f"config.procedure.methods: {method!r} is unknown; allowed: {', '.join(METHODS)}"
            )
    targets = _targets(sparsities, patterns)
    experiment = prepare(config, data_dir)
    available = len(experiment.dataset.train.labels)
    if not 1 <= calibration <= available:
        raise UserError(
            f"config.procedure.calibration: {calibration} is impossible; allowed: 1 to the "
            f"{available} training examples"
        )
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

    dataset, examples = experiment.dataset, experiment.dataset.test
    score = jax.jit(
        lambda params: evaluate(experiment, trained.state._replace(params=params), examples)
    )
    prune = _Pruner(experiment, trained.state, calibration)
    rows = []
    for target, sparsity, structure in targets:
        for method in methods:
            begun = time.perf_counter()
            params, masks = prune(method, sparsity, structure)
            jax.block_until_ready(params)
            seconds = time.perf_counter() - begun
            kept = sparsejax.counts(params, masks).values()
            row = {
                "method": method,
                "target": target,
                "sparsity": 1 - sum(x.kept for x in kept) / sum(x.total for x in kept),
                **means(dataset, [score(params)], len(examples.labels)),
                "prune_seconds": seconds,
            }
            rows.append(row)
            console.print(f"{method}  {target}  loss {row['loss']:.4f}  {seconds:.0f} s")
            if stop():
                return None
    stage = {key: value for key, value in trained.summary.items() if key != "config"}
    summary = trained.summary | {
        "post_training": rows,
        "stages": {STAGE: stage | {"kind": STAGE}},
    }
    console.print(table(summary), highlight=False)
    records.write_json(path, summary)
    return summary


def table(summary: dict[str, Any]) -> Table:
    """Returns the table of the pruned networks: perplexity for text, else accuracy in percent.

    Args:
      summary: what `post_training` returned.

    Returns:
      A row for each method and a column for each target; the dense network comes first.

    Example:
      >>> row = {"method": "wanda", "target": "2:4", "accuracy": 0.5}
      >>> table({"test_accuracy": 0.75, "post_training": [row]}).row_count
      2
    """
    rows = summary["post_training"]
    measure = "perplexity" if "test_perplexity" in summary else "accuracy"
    scale = 1 if measure == "perplexity" else 100
    targets = list(dict.fromkeys(row["target"] for row in rows))
    shown = Table(
        "method",
        *targets,
        title=f"{measure.capitalize()} on the test examples, pruned and not retrained",
        title_justify="left",
        box=box.HORIZONTALS,
    )
    dense = f"{scale * summary[f'test_{measure}']:.3f}"
    shown.add_row("dense", *[dense] * len(targets))
    for method in dict.fromkeys(row["method"] for row in rows):
        values = {row["target"]: row[measure] for row in rows if row["method"] == method}
        shown.add_row(method, *(f"{scale * values[t]:.3f}" for t in targets))
    return shown


def _targets(
    sparsities: Sequence[float], patterns: Sequence[str]
) -> list[tuple[str, float, Structure | None]]:
    """The names, sparsities and structures to prune to."""
    for sparsity in sparsities:
        if not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
            raise UserError(
                f"config.procedure.sparsities: {sparsities!r} is impossible; allowed: numbers in "
                "[0, 1)"
            )
    targets: list[tuple[str, float, Structure | None]] = [
        (f"{100 * sparsity:.4g} %", sparsity, None) for sparsity in sparsities
    ]
    for pattern in patterns:
        try:
            n, m = map(int, pattern.split(":"))
            targets.append((pattern, 1 - n / m, sparsejax.nm(n, m)))
        except (AttributeError, ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"config.procedure.patterns: {pattern!r} is impossible; allowed: N:M, such as 2:4"
            ) from error
    if not targets:
        raise UserError("config.procedure: give sparsities or patterns to prune to")
    return targets


class _Pruner:
    """The methods on one trained network: `(method, sparsity, structure) -> (params, masks)`."""

    def __init__(self, experiment: Experiment, state: TrainState, calibration: int) -> None:
        self.params: Params = state.params
        self._experiment, self._state = experiment, state
        order = np.random.default_rng([experiment.seed, 0]).permutation(
            len(experiment.dataset.train.labels)
        )[:calibration]
        chosen = experiment.dataset.train.images[order]
        starts = range(0, calibration, CALIBRATION_BATCH)
        self._batches = [chosen[i : i + CALIBRATION_BATCH] for i in starts]

    def _apply(self, params: Params, images: jax.Array) -> Any:
        of_state = variables(self._experiment, self._state._replace(params=params))
        inputs = self._experiment.dataset.normalise(images)
        return self._experiment.model.apply(of_state, inputs, train=False)

    def __call__(
        self, method: str, sparsity: float, structure: Structure | None
    ) -> tuple[Params, Masks]:
        options: dict[str, Any] = {
            "structure": structure,
            "stage_of": lambda path: path.partition("/")[0],
        }
        given = (self._apply, self.params, self._batches)
        if method == "sparsegpt":
            return sparsejax.sparsegpt(*given, sparsity, **options)
        if method == "magnitude":
            masks = sparsejax.magnitude_masks(self.params, sparsity, structure=structure)
        else:
            masks = sparsejax.wanda(*given, sparsity, **options)
        if method == "dsnot":
            masks = sparsejax.dsnot(*given, masks, **options)
        return sparsejax.apply_masks(self.params, masks), masks
