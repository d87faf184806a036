"""Lottery tickets: a network is trained, pruned and rewound, again and again.

Frankle and Carbin, 'The lottery ticket hypothesis: finding sparse, trainable neural networks',
arXiv:1803.03635. Each round prunes the smallest of the weights that the round before has trained,
and trains what is left from where the first training began: the *ticket*. Two controls tell what
makes a ticket: its connections with new random weights, and its weights' own beginnings on as many
connections chosen at random. Rewinding to a step after the first is Frankle et al., 'Linear mode
connectivity and the lottery ticket hypothesis', arXiv:1912.05671.
"""

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import build, records
from experiments.errors import UserError
from experiments.train import Experiment, Result, TrainState, counts, fit, init, prepare
from sparsejax.rounding import portion
from sparsejax.transforms import SparsifyState, reset_slots
from sparsejax.typing import Count, Distribution, Leaf, Masks, Number

Kind = Literal["dense", "rewound", "reinitialized", "shuffled"]
Counts = dict[str, int]
"""Path of a prunable parameter -> how many of its entries are kept."""

# What a random choice is for; each has its own stream beside the numbers of the run's seed.
_NEW_WEIGHTS, _SHUFFLE = 1, 2


class Stage(NamedTuple):
    """One training of the procedure.

    Attributes:
      kind: ``dense``, ``rewound``, ``reinitialized`` or ``shuffled``.
      round: how often the network has been pruned.
    """

    kind: Kind
    round: int

    @property
    def name(self) -> str:
        """The stage's folder."""
        return f"round_{self.round:02}_{self.kind}"


def lottery(
    config: ConfigDict,
    workdir: Path,
    data_dir: Path | None,
    *,
    stop: Callable[[], bool],
    console: Console,
    rounds: int,
    rate: float = 0.2,
    rates: Mapping[str, float] | None = None,
    rewind_step: int = 0,
    controls: Sequence[int] = (),
) -> dict[str, Any] | None:
    """Finds lottery tickets by iterative magnitude pruning, or continues to.

    Round 0 trains the dense network. Each later round prunes what the round before has trained,
    each layer by itself, and trains the rest from the state of the first training after
    `rewind_step` steps: parameters, optimizer and batch statistics. Pruned weights stay pruned.

    Args:
      config: the configuration, with no rule: the procedure makes the masks.
      workdir: where the files go. Each stage has its own folder, such as ``round_03_rewound``;
        ``start`` holds the first `rewind_step` steps, if there are any.
      data_dir: where data sets lie; None for the default.
      stop: asked again and again; when it says True, the stage that is under way saves.
      console: where progress is shown.
      rounds: how often the network is pruned.
      rate: the share of its remaining weights that a layer loses in a round, rounded half to even.
      rates: by path pattern (as in `fnmatch`, the first that matches counts) the share that the
        layers of that name lose instead, such as ``{"Dense_2/kernel": 0.1}`` for the last layer.
      rewind_step: the step of the first training that each round begins from.
      controls: the rounds with controls: ``reinitialized``, the ticket's masks with new random
        weights, trained from step 0, and ``shuffled``, as many weights in each layer in random
        places, from the state that the ticket begins from.

    Returns:
      What ``summary.json`` holds, or None if the procedure was stopped: ``config``, and ``stages``,
      by folder the summary of its training with ``kind``, ``round``, ``density`` (the kept share
      of the prunable weights) and ``least_loss``: step, loss and accuracy of the evaluation with
      the smallest validation loss, where training might have been stopped early.

    Raises:
      UserError: if the configuration, a data file or a working directory is wrong.
    """
    if config.rule is not None:
        raise UserError(
            f"config.rule: {build.name_of(config.rule)!r} is impossible with the procedure "
            "lottery, which makes the masks itself; allowed: None"
        )
    for name, value in [("rate", rate), *((f"rates[{k!r}]", v) for k, v in (rates or {}).items())]:
        _require(name, value, isinstance(value, int | float) and 0 <= value < 1, "in [0, 1)")
    _require("rounds", rounds, rounds >= 1, "at least 1")
    strange = [r for r in controls if not isinstance(r, int) or not 1 <= r <= rounds]
    _require("controls", controls, not strange, f"rounds, from 1 to {rounds}")
    _require(
        # On the grid of the dispatches, so that the steps before are those of any dense training.
        "rewind_step",
        rewind_step,
        0 <= rewind_step < config.steps and rewind_step % config.log_every == 0,
        f"a multiple of config.log_every, {config.log_every}, below config.steps, {config.steps}",
    )
    dense = prepare(config, data_dir)
    plan = _plan(dense, rounds, rate, rates or {})

    records.claim(workdir, config)
    summary_path = workdir / "summary.json"
    if summary_path.exists():
        console.print(f"This run is finished; its results are in {summary_path}.")
        summary: dict[str, Any] = records.read_json(summary_path)
        return summary
    start = _start(config, workdir / "start", dense, rewind_step, stop, console)
    if start is None:
        return None
    stages: dict[str, dict[str, Any]] = {}
    ticket, trained = sparsejax.dense_masks(start.params), start
    for number, kept in enumerate(plan):
        if number:
            ticket = _pruned(trained.params, ticket, kept)
        for stage in _stages(number, number in controls):
            experiment, state = _beginning(stage, dense, start, ticket, kept)
            result = _train(config, workdir / stage.name, experiment, state, stop, console)
            if result.summary is None:
                return None
            stages[stage.name] = _entry(stage, experiment, result)
            if stage.kind in ("dense", "rewound"):
                trained = result.state
    summary = {"config": config.to_dict(), "stages": stages}
    records.write_json(summary_path, summary)
    return summary


def _require(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"config.procedure.{name}: {value!r} is impossible; allowed: {allowed}")


def _plan(
    experiment: Experiment, rounds: int, rate: float, rates: Mapping[str, float]
) -> list[Counts]:
    """How many entries each layer keeps after each round, from the dense network on."""
    params = jax.eval_shape(functools.partial(init, experiment)).params
    layers = sparsejax.counts(params, sparsejax.dense_masks(params))
    for pattern in rates:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in layers):
            raise UserError(
                f"config.procedure.rates: {pattern!r} matches no prunable parameter; there are: "
                + ", ".join(layers)
            )
    own = {
        path: next((r for key, r in rates.items() if fnmatch.fnmatchcase(path, key)), rate)
        for path in layers
    }
    plan = [{path: layer.total for path, layer in layers.items()}]
    for number in range(1, rounds + 1):
        plan.append({path: n - int(portion(n, own[path])) for path, n in plan[-1].items()})
        if empty := [path for path, n in plan[-1].items() if n == 0]:
            raise UserError(
                f"config.procedure.rounds: {rounds} is impossible; allowed: at most {number - 1}, "
                f"since nothing is left of {', '.join(empty)} in round {number}"
            )
    return plan


def _start(
    config: ConfigDict,
    workdir: Path,
    dense: Experiment,
    steps: int,
    stop: Callable[[], bool],
    console: Console,
) -> TrainState | None:
    """The state of the first training after so many steps; None if it was stopped before."""
    first = jax.jit(functools.partial(init, dense))()
    if not steps:
        return first
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.steps = steps
    result = _train(config, workdir, dense, first, stop, console)
    return None if result.summary is None else result.state


def _train(
    config: ConfigDict,
    workdir: Path,
    experiment: Experiment,
    state: TrainState,
    stop: Callable[[], bool],
    console: Console,
) -> Result:
    """Trains in a folder of its own from a state to the end, or continues to."""
    records.claim(workdir, config)
    console.print(f"[bold]{workdir.name}[/]: {_density(experiment, state):.2%} of the weights")
    return fit(config, workdir, experiment, lambda: state, stop=stop, console=console)


def _stages(number: int, with_controls: bool) -> list[Stage]:
    ticket: Kind = "rewound" if number else "dense"
    kinds: tuple[Kind, ...] = ("reinitialized", "shuffled") if with_controls else ()
    return [Stage(kind, number) for kind in (ticket, *kinds)]


def _beginning(
    stage: Stage, dense: Experiment, start: TrainState, ticket: Masks, kept: Counts
) -> tuple[Experiment, TrainState]:
    """What a stage trains, and the state that it begins from."""
    if stage.kind == "dense":
        return dense, start
    if stage.kind == "reinitialized":
        start = init(dense._replace(seed=_seed(dense.seed, _NEW_WEIGHTS, stage.round)))
    if stage.kind == "shuffled":
        key = jax.random.key(_seed(dense.seed, _SHUFFLE, stage.round))
        ticket = sparsejax.random_masks(start.params, key, 0.0, distribution=_exactly(kept))
    rule = sparsejax.fixed(ticket)
    params = sparsejax.apply_masks(start.params, ticket)
    # As after any move of masks: no slot of the optimizer remembers what its weight was.
    slots = reset_slots(dense.optimizer, start.opt_state, params, ticket)
    state = start._replace(
        params=params,
        opt_state=SparsifyState(rule.init(params), slots),
        evaluated_masks=ticket,
    )
    optimizer = sparsejax.sparsify(dense.optimizer, rule)
    return dense._replace(optimizer=optimizer, sparse=True, start_sparse=True), state


def _pruned(params: Any, ticket: Masks, kept: Counts) -> Masks:
    """The masks that keep so many of the largest of the weights that were on the masks."""
    # A weight that happens to be 0 is still on the mask, hence `first`.
    return sparsejax.masks_from_scores(
        params, jax.tree.map(jnp.abs, params), 0.0, distribution=_exactly(kept), first=ticket
    )


def _exactly(kept: Counts) -> Distribution:
    """The distribution that gives each layer a number of its own, at any density."""

    def distribution(leaves: Sequence[Leaf], density: Number, /) -> list[Count]:
        return [kept[leaf.path] for leaf in leaves]

    return distribution


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _density(experiment: Experiment, state: TrainState) -> float:
    """The kept share of all prunable weights."""
    layers = counts(experiment, state).values()
    return sum(layer.kept for layer in layers) / sum(layer.total for layer in layers)


def _entry(stage: Stage, experiment: Experiment, result: Result) -> dict[str, Any]:
    """What the procedure's summary holds of a finished stage."""
    evaluations = [line for line in result.history if line["kind"] == "validation"]
    least = min(evaluations, key=lambda line: line["loss"])
    return {
        # The configuration is that of the whole procedure.
        **{key: value for key, value in (result.summary or {}).items() if key != "config"},
        "kind": stage.kind,
        "round": stage.round,
        "density": _density(experiment, result.state),
        "least_loss": {key: least[key] for key in ("step", "loss", "accuracy")},
    }
