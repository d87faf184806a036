"""Cohorts: runs that differ only in numbers, trained as one program.

A number that the library accepts traced, such as a seed, a sparsity or a learning rate, does not
have to be known to the compiler. Runs that differ in nothing else are therefore one program over a
further axis (`jax.vmap`), compiled once. Every run of a cohort keeps a folder of its own, with what
it would have left alone; its checkpoints are those of a single run, so that it can also be
continued alone.

What differs from a run alone: XLA may take the sums of a product in another order, so losses differ
by a unit in the last place at first, and masks that are chosen by weights or gradients drift apart
with time. Of LeNet-300-100 on MNIST with RigL, on a CPU, the losses were the same to 2e-7 for a
hundred steps and to 1 % after a thousand, the test accuracies then to 0.07 points. The number of
weights that each mask keeps is the same throughout: it is taken from a float32 fraction, which is
exact for decimals of up to six places, else it may be off by one. The times in the summary are
those of the whole cohort.
"""

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape

from experiments import grid, procedures, records
from experiments.checkpoint import Checkpoints
from experiments.data import Dataset, Split
from experiments.train import (
    Answer,
    Experiment,
    Request,
    TrainState,
    assemble,
    evaluate,
    finish,
    init,
    loop,
    prepare,
    progress_bars,
    together,
    train_steps,
)

T = TypeVar("T")


class Member(NamedTuple):
    """A run of a cohort.

    Attributes:
      config: its configuration.
      workdir: its directory.
      experiment: its objects.
    """

    config: ConfigDict
    workdir: Path
    experiment: Experiment


class Programs(NamedTuple):
    """The programs of a cohort. A member's values say in which numbers it differs from the others.

    Attributes:
      begin: ``values -> state``: `init` of a member.
      score: ``(values, state, examples) -> sums``: `evaluate` of a member.
      run: ``(states, examples, values, indices) -> answers``: `train_steps` of all members, given
        and returned one by one; the states are given away.
    """

    begin: Callable[..., TrainState]
    score: Callable[..., dict[str, jax.Array]]
    run: Callable[..., list[Answer]]


def groups(configs: Sequence[ConfigDict], most: int) -> list[list[int]]:
    """Returns which runs may form a cohort, by what stands in their configurations.

    Runs of a group differ only in floating-point numbers and in seeds, outside of ``data``. A
    procedure is always alone. Nothing is built; `train_cohort` finds out which of these numbers
    can really be traced, and trains one after the other what does not go together.

    Args:
      configs: the configurations.
      most: how many runs a group has at most.

    Returns:
      The groups, as indices of `configs`: each is in one, in order.

    Raises:
      ValueError: if `most` is not positive.

    Example:
      >>> config = ConfigDict({'seed': 0, 'steps': 9, 'data': {}, 'procedure': None})
      >>> runs = [{}, {'seed': 1}, {'steps': 8}, {'seed': 2}, {'seed': 3}]
      >>> groups([grid.override(config, run) for run in runs], most=3)
      [[0, 1, 3], [2], [4]]
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    found: list[list[int]] = []
    latest: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        numbers = _numbers(config)
        rest = {k: v for k, v in records.flat(config.to_dict()).items() if k not in numbers}
        alone = i if config.get("procedure") else None
        kind = json.dumps([sorted(numbers), rest, alone], sort_keys=True)
        if kind not in latest or len(latest[kind]) == most:
            latest[kind] = []
            found.append(latest[kind])
        latest[kind].append(i)
    return found


def train_cohort(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Path],
    data_dir: Path | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> list[dict[str, Any] | None]:
    """Trains runs as one program, or continues to; what is finished is left alone.

    Runs that do not go together, because they differ in more than numbers, or in one that cannot
    be traced, or because they have come to different steps, are trained one after the other. An
    interrupted cohort continues from the latest step that all its runs have saved, to the same
    bits if its runs are the same.

    Args:
      configs: the configurations.
      workdirs: a directory for each; see `experiments.train.train`.
      data_dir: where data sets lie; None for the default.
      stop: asked between dispatches; when it says True, all runs save, and the function returns.
      console: where progress is shown; None for standard output.

    Returns:
      For each run the content of its ``summary.json``, with the times of the cohort; None if it
      was stopped before its end.

    Raises:
      UserError: if a configuration, a data file or a working directory is wrong. It ends the
        cohort; the runs keep what they have saved.
      ValueError: if two runs have the same working directory.
    """
    if len(set(workdirs)) < len(workdirs):
        raise ValueError("every run of a cohort needs a working directory of its own")
    console = console or Console()
    summaries: dict[Path, dict[str, Any] | None] = {}

    def alone(config: ConfigDict, workdir: Path) -> None:
        summaries[workdir] = procedures.run(config, workdir, data_dir, stop=stop, console=console)

    for group in groups(configs, len(configs)):
        if len(group) == 1:
            alone(configs[group[0]], workdirs[group[0]])
            continue
        members = _members([configs[i] for i in group], [workdirs[i] for i in group], data_dir)
        finished = {member.workdir: _summary(member) for member in members}
        summaries |= {path: summary for path, summary in finished.items() if summary}
        for cohort in _traceable([m for m in members if m.workdir not in summaries]):
            for part in _level(cohort):
                if len(part.members) == 1:
                    alone(part.members[0].config, part.members[0].workdir)
                else:
                    summaries |= _train(part, stop, console)
                if None in summaries.values():  # it was to stop
                    return [summaries.get(workdir) for workdir in workdirs]
    return [summaries[workdir] for workdir in workdirs]


def programs(config: ConfigDict, dataset: Dataset) -> Programs:
    """Makes the programs of a cohort.

    Args:
      config: the configuration of one member, for all that the members have in common.
      dataset: its data set.

    Returns:
      The programs, not compiled yet.
    """

    def member(values: dict[str, Any]) -> Experiment:
        return assemble(grid.override(config, values), dataset)

    def begin(values: dict[str, Any]) -> TrainState:
        return init(member(values))

    def score(values: dict[str, Any], state: TrainState, examples: Split) -> dict[str, jax.Array]:
        return evaluate(member(values), state, examples)

    def run(
        states: list[TrainState], examples: Split, values: list[dict[str, Any]], indices: jax.Array
    ) -> list[Answer]:
        def steps(state: TrainState, values: dict[str, Any], rows: jax.Array) -> Answer:
            return train_steps(member(values), state, examples, rows)

        # Stacked and taken apart in here, the members are single runs to all others.
        state, numbers = (
            jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (states, values)
        )
        answers = jax.vmap(steps)(state, numbers, indices)
        return [jax.tree.map(lambda x, i=i: x[i], answers) for i in range(len(states))]

    return Programs(jax.jit(begin), jax.jit(score), jax.jit(run, donate_argnums=0))


class Cohort(NamedTuple):
    """Runs that can be trained as one program.

    Attributes:
      members: the runs.
      values: for each the numbers in which they differ, by dotted path.
      programs: their programs; none for a run alone.
    """

    members: list[Member]
    values: list[dict[str, Any]]
    programs: Programs | None


def _numbers(config: ConfigDict) -> dict[str, Any]:
    """What of a configuration may be traced: its floats and its seeds, by their dotted paths."""
    return {
        path: value
        for path, value in records.flat(config.to_dict()).items()
        if not path.startswith("data.")
        if type(value) is float or (type(value) is int and path.rpartition(".")[2] == "seed")
    }


def _members(
    configs: Sequence[ConfigDict], workdirs: Sequence[Path], data_dir: Path | None
) -> list[Member]:
    """The members, each checked as it would be alone."""
    members: list[Member] = []
    for config, workdir in zip(configs, workdirs, strict=True):
        config = config.copy_and_resolve_references()
        members.append(Member(config, workdir, prepare(config, data_dir)))
    for member in members:
        records.claim(member.workdir, member.config)
    return members


def _summary(member: Member) -> dict[str, Any] | None:
    """The summary of a member that is finished."""
    path = member.workdir / "summary.json"
    last = member.workdir / "checkpoints" / str(member.config.steps)
    return records.read_json(path) if path.exists() and last.exists() else None


def _traceable(members: list[Member]) -> Iterator[Cohort]:
    """Parts runs into those that one program can be made for.

    All states of a program have one structure; a number that cannot be traced is the same in all.
    """
    for part in _parts(members, lambda member: _shape(_beginning(member))):
        if cohort := _cohort(part, _differing(part)):
            yield cohort
            continue
        fixed = [path for path in _differing(part) if not _cohort(part, [path])]
        values = [tuple(_numbers(member.config)[path] for path in fixed) for member in part]
        for pairs in _parts(zip(values, part, strict=True), lambda pair: pair[0]):
            smaller = [member for _, member in pairs]
            if cohort := _cohort(smaller, _differing(smaller)):
                yield cohort
            else:
                yield from (Cohort([member], [{}], None) for member in smaller)


def _cohort(members: list[Member], paths: list[str]) -> Cohort | None:
    """The cohort with the numbers at these paths traced; None if one of them cannot be."""
    if len(members) == 1:
        return Cohort(members, [{}], None)
    config, experiment = members[0].config, members[0].experiment
    made = programs(config, experiment.dataset)
    values = []
    for member in members:
        numbers = {path: _numbers(member.config)[path] for path in paths}
        # Python's floats remain such, since their type gives way to that of arrays.
        values.append({k: np.uint32(x) if isinstance(x, int) else x for k, x in numbers.items()})
    steps = min(config.steps_per_dispatch, config.log_every, config.steps)
    indices = np.zeros((len(members), steps, config.batch_size), np.int32)
    examples = experiment.dataset
    try:
        state = jax.eval_shape(made.begin, values[0])
        jax.eval_shape(made.score, values[0], state, examples.validation)
        states = [state] * len(members)
        (after, _), *_ = jax.eval_shape(made.run, states, examples.train, values, indices)
    except Exception as error:  # each was built alone before: it is the tracing that fails
        logging.info("These numbers cannot be traced: %s: %s", ", ".join(paths), error)
        return None
    fits = _shape(_beginning(members[0])) == _shape(state) == _shape(after)
    return Cohort(members, values, made) if fits else None


def _differing(members: list[Member]) -> list[str]:
    """The paths of the numbers in which members differ."""
    first, *others = (_numbers(member.config) for member in members)
    return [path for path in first if any(other[path] != first[path] for other in others)]


def _beginning(member: Member) -> TrainState:
    """The shapes and types of a member's first state, as it is alone."""
    return jax.eval_shape(functools.partial(init, member.experiment))


def _shape(state: TrainState) -> Hashable:
    """What two states have in common that fit into one program."""
    leaves, structure = jax.tree.flatten(state)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _parts(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Parts items by a key, in the order in which the keys occur."""
    parts: dict[Hashable, list[T]] = {}
    for item in items:
        parts.setdefault(key(item), []).append(item)
    return list(parts.values())


def _stores(stack: contextlib.ExitStack, cohort: Cohort) -> list[Checkpoints]:
    return [
        stack.enter_context(contextlib.closing(Checkpoints(member.workdir / "checkpoints")))
        for member in cohort.members
    ]


def _level(cohort: Cohort) -> list[Cohort]:
    """Parts runs that have come to different steps; in each part all have one in common.

    An interruption between the saves of two members leaves them one checkpoint apart, of the two
    that each keeps, or one checkpoint from the beginning. These go back to where all have been.
    """
    if cohort.programs is None:
        return [cohort]
    latest = []
    with contextlib.ExitStack() as stack:
        stores = _stores(stack, cohort)
        beginnings = [cohort.programs.begin(values) for values in cohort.values]
        for store, state in zip(stores, beginnings, strict=True):
            restored = store.restore_latest(state)  # removes what is damaged
            latest.append(0 if restored is None else restored.step)
        if _common(stores, beginnings) is not None:
            return [cohort]
    runs = zip(latest, cohort.members, cohort.values, strict=True)
    return [
        Cohort([run[1] for run in part], [run[2] for run in part], cohort.programs)
        for part in _parts(runs, lambda run: run[0])
    ]


def _common(stores: list[Checkpoints], beginnings: list[TrainState]) -> list[TrainState] | None:
    """The states of runs at the latest step that all have; None if there is none."""
    steps = [store.steps() for store in stores]
    points = [{*saved} if len(saved) > 1 else {0, *saved} for saved in steps]
    for step in sorted(set.intersection(*points), reverse=True):
        states = [
            restored
            for store, state in zip(stores, beginnings, strict=True)
            if (restored := store.restore(step, state) if step else state) is not None
        ]
        if len(states) == len(stores):
            return states
    return None


def _train(
    cohort: Cohort, stop: Callable[[], bool], console: Console
) -> dict[Path, dict[str, Any] | None]:
    """Trains the runs of a cohort together; returns their summaries by their directories."""
    members, values, made = cohort
    assert made is not None
    stop = _once_for_all(stop, len(members))
    names = [f"{escape(member.workdir.name)}: " for member in members]
    scores = [functools.partial(made.score, numbers) for numbers in values]
    examples = members[0].experiment.dataset.train

    def take(requests: list[Request]) -> list[Answer]:
        indices = np.stack([request.indices for request in requests])
        return made.run([request.state for request in requests], examples, values, indices)

    with contextlib.ExitStack() as stack:
        stores = _stores(stack, cohort)
        states = _common(stores, [made.begin(numbers) for numbers in values])
        assert states is not None
        start = int(states[0].step)
        console.print(f"{len(members)} runs are trained together, after step {start}.")
        for store in stores:
            store.remove_after(start)
        with progress_bars(console) as bars:
            trainings = [
                loop(*member, state, store, score, stop, bars, name)
                for member, state, store, score, name in zip(
                    members, states, stores, scores, names, strict=True
                )
            ]
            del states  # given away with the first requests
            ends = together(trainings, take)
        # Only now, when the last states of all are saved: an interruption between two of them
        # would leave a smaller cohort, and that another program.
        results = [
            finish(*member, end, store, score, functools.partial(_say, console, name))
            for member, end, store, score, name in zip(
                members, ends, stores, scores, names, strict=True
            )
        ]
    return {member.workdir: result.summary for member, result in zip(members, results, strict=True)}


def _say(console: Console, name: str, text: str) -> None:
    console.print(name + text)


def _once_for_all(stop: Callable[[], bool], number: int) -> Callable[[], bool]:
    """Asks once where `number` members ask one after the other, so that all get one answer."""
    answers = (answer for _ in itertools.count() for answer in [stop()] * number)
    return lambda: next(answers)
