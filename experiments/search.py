"""Searches for the sparsity, the distribution, the schedule, ... that serve an objective best.

    python -m experiments.search --config configs/digits_search.py --workdir runs/search \
        --trials 40 --objective accuracy --most_flops 0.1
    python -m experiments.search --config configs/digits_search.py --workdir runs/front \
        --trials 40 --objective pareto --cost bytes

The first looks for the best accuracy of a network that takes at most a tenth of the FLOPs of its
dense counterpart; the second for the whole front of accuracy against bytes. Accuracy is always that
on the validation examples; the test examples choose nothing.

The configuration file has a function search() that returns what may be chosen, made with the
functions of experiments/space.py: {"rule.sparsity": uniform(0.5, 0.99)}. --config.KEY=VALUE holds
for all trials. An extra is needed: pip install 'sparsejax[search]'.

Trials are chosen by Optuna's tree-structured Parzen estimator, in batches of --parallel, each with
the results of the batches before it. Their runs lie in the working directory like those of a sweep;
equal configurations are one run. A trial that fails is recorded as failed, and counts, and the
search goes on. SIGTERM and Ctrl-C let the runs save first.

The study is search.jsonl there, a journal that Optuna's own tools can read. The same command, given
again, goes on where it stopped, up to --trials in all: what was chosen and is not over continues
with the same values. What is chosen is a function of the configuration, the space, the objective,
--search_seed, --parallel, the version of Optuna and the results. Interruptions do not change it; a
search in two parts, the first with a --trials that is no multiple of --parallel, does. One search
at a time may work in a directory.

    python -m experiments.report runs/search

shows the runs in one page; search.json and search.png hold what was found.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command, grid, launchers, records, runs, space, sweep
from experiments import search_results as found
from experiments.errors import UserError


def search(
    config: ConfigDict,
    choices: space.Space,
    root: Path,
    goal: found.Goal,
    *,
    trials: int,
    seed: int = 0,
    parallel: int = 1,
    execute: Callable[[Sequence[ConfigDict]], Sequence[runs.Run]],
) -> list[found.Trial]:
    """Chooses trials and runs them, or continues to.

    Args:
      config: what the trials have in common.
      choices: what may be chosen.
      root: the folder of the study and of the runs' folders, created if there is none.
      goal: what the search is for.
      trials: how many there are to be in all, with those that are there already and failed ones.
      seed: that of the choices.
      parallel: how many trials are chosen at a time.
      execute: runs what is not finished of a list of configurations in folders of `root`, as
        `experiments.sweep.execute` does. The search ends when it leaves a run that can go on.

    Returns:
      The trials that are over, in their order.

    Raises:
      UserError: if Optuna is not installed, or the folder holds another search.
    """
    distributions = {key: _distribution(choice) for key, choice in choices.items()}
    study = _open(root, config, distributions, goal, seed)
    while (told := len(study.trials)) < trials:
        asked = study.user_attrs.get("asked", {"first": 0, "parameters": []})
        if told == asked["first"] + len(asked["parameters"]):
            parameters = _ask(study, distributions, seed, min(parallel, trials - told))
            asked = {"first": told, "parameters": parameters}
            # On the disk before anything runs: these are the next trials, whatever happens.
            study.set_user_attr("asked", asked)
        points = asked["parameters"]
        configs = [grid.override(config, space.values(choices, point)) for point in points]
        results = execute(configs)
        if any(run.state == "started" for run in results):
            break
        for i in range(told - asked["first"], len(points)):
            study.add_trial(_told(points[i], distributions, results[i], goal))
    return [
        found.Trial(
            trial.number,
            trial.user_attrs["run"],
            space.values(choices, trial.params),
            trial.user_attrs["results"],
        )
        for trial in study.trials
    ]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("Optuna is not installed; pip install 'sparsejax[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(choice: space.Uniform | space.Integers | space.Choice) -> Any:
    """A choice as Optuna has it."""
    distributions = _optuna().distributions
    if isinstance(choice, space.Choice):
        return distributions.CategoricalDistribution(choice.texts)
    if isinstance(choice, space.Integers):
        return distributions.IntDistribution(choice.low, choice.high, log=choice.log)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log)


def _open(
    root: Path, config: ConfigDict, distributions: Mapping[str, Any], goal: found.Goal, seed: int
) -> Any:
    """The study in a folder, new or continued."""
    optuna = _optuna()
    to_json = optuna.distributions.distribution_to_json
    settings = {
        "config": config.to_dict(),
        "space": {key: json.loads(to_json(value)) for key, value in distributions.items()},
        "goal": goal._asdict(),
        "search_seed": seed,
    }
    settings = json.loads(json.dumps(settings))  # as JSON will give it back: lists for tuples
    root.mkdir(parents=True, exist_ok=True)
    path = root / "search.jsonl"
    if path.exists():
        # The next line must not be written behind one that was cut off.
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            directions=["maximize", "minimize"] if goal.objective == "pareto" else ["maximize"],
            load_if_exists=True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a journal of Optuna; choose another --workdir") from error
    there = study.user_attrs.get("settings")
    if there is None:
        study.set_user_attr("settings", settings)
    elif there != settings:
        raise UserError(
            f"{root} holds another search; choose another --workdir, or repeat that search. They "
            f"differ in {', '.join(runs.differing([there, settings]))}"
        )
    return study


def _ask(
    study: Any, distributions: Mapping[str, Any], seed: int, number: int
) -> list[space.Parameters]:
    """The parameters of the next trials, chosen by the results of those before."""
    optuna = _optuna()
    # A draft in memory, so that the journal holds no trial that is not over.
    draft = optuna.create_study(directions=study.directions)
    draft.add_trials(study.trials)
    asked = []
    for _ in range(number):
        # A generator for each trial, so that there is no state to keep.
        state = np.random.SeedSequence([seed, len(draft.trials)]).generate_state(1)
        draft.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
        asked.append(draft.ask(dict(distributions)).params)
    return asked


def _told(
    parameters: space.Parameters, distributions: Mapping[str, Any], run: runs.Run, goal: found.Goal
) -> Any:
    """A trial that is over, for the study."""
    optuna = _optuna()
    trial = functools.partial(
        optuna.trial.create_trial, params=parameters, distributions=dict(distributions)
    )
    summary = run.summary
    if summary is None:
        attributes = {"run": run.path.name, "results": {}}
        return trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes)
    keys = ("validation_accuracy", "test_accuracy", "sparsity")
    costs = {cost: summary[cost]["sparse"] / summary[cost]["dense"] for cost in found.COSTS}
    results = {key: summary[key] for key in keys} | costs
    values = [results["validation_accuracy"]]
    return trial(
        values=[*values, costs[goal.cost]] if goal.objective == "pareto" else values,
        constraints={cost: costs[cost] - limit for cost, limit in goal.limits.items()},
        user_attrs={"run": run.path.name, "results": results},
    )


def prepare(config: ConfigDict, choices: space.Space, data_dir: Path | None) -> None:
    """Checks a few points of a space, with every value of each choice, before anything is trained.

    Args:
      config: what the trials have in common.
      choices: what may be chosen.
      data_dir: where data sets lie; None for the default.

    Raises:
      UserError: for the first that is wrong, with what is wrong.
    """
    points = [space.values(choices, point) for point in space.corners(choices)]
    configs = [grid.override(config, point) for point in points]
    sweep.prepare(configs, data_dir)
    if any(config.procedure is not None for config in configs):
        raise UserError("config.procedure: a search trains one network a trial; allowed: None")


def show(trials: Sequence[found.Trial], goal: found.Goal, root: Path, console: Console) -> None:
    """Prints what was found, and writes it to search.json and search.png."""
    finished = [trial for trial in trials if trial.results]
    console.print(
        f"{len(trials)} trials: {len(finished)} finished, {len(trials) - len(finished)} failed.",
        highlight=False,
    )
    best = found.best(trials, goal)
    if best:
        console.print(found.table(best))
        console.print("FLOPs and bytes are relative to those of the dense network.")
    elif finished:
        least = {cost: min(trial.results[cost] for trial in finished) for cost in goal.limits}
        console.print("No trial is within the limits; the least was", end=" ")
        console.print(" and ".join(f"{least[cost]:.3g} of the {cost}" for cost in least) + ".")
    records.write_json(root / "search.json", found.content(trials, goal))
    if finished:
        drawn = found.figure(f"A search of {len(trials)} trials", trials, goal)
        temporary = root / f"search.png.{os.getpid()}.tmp"
        drawn.savefig(temporary, format="png")
        os.replace(temporary, root / "search.png")


def main() -> None:
    """Makes the search that the flags describe."""
    values = flags.FLAGS
    root, console = Path(values.workdir), Console()
    _optuna()  # if it is missing, that is said at once
    choices = space.of_file(command.config_file())
    goal = found.Goal(values.objective, values.cost, values.most_flops, values.most_bytes)
    prepare(command.config(), choices, command.data_dir())
    stop = command.stop_on_signals()
    launcher = launchers.from_flags()
    try:
        trials = search(
            command.config(),
            choices,
            root,
            goal,
            trials=values.trials,
            seed=values.search_seed,
            parallel=launcher.parallel,
            execute=functools.partial(
                sweep.execute,
                root=root,
                launcher=launcher,
                data_dir=command.data_dir(),
                retries=values.retries,
                console=console,
                stop=stop,
            ),
        )
    finally:
        launcher.close()
    show(trials, goal, root, console)
    if len(trials) < values.trials:
        sys.exit("Stopped; the same command continues.")
    console.print(f"python -m experiments.report {root} shows them.", highlight=False)


if __name__ == "__main__":
    command.define_config()
    command.define_data_dir()
    launchers.define_flags()
    flags.DEFINE_string(
        "workdir", None, "The directory of the search; created if there is none, else continued."
    )
    flags.DEFINE_integer(
        "trials", None, "How many trials there are to be, with those of before.", lower_bound=1
    )
    flags.DEFINE_enum(
        "objective",
        "accuracy",
        ["accuracy", "pareto"],
        "The best validation accuracy within the limits, or its whole front against --cost.",
    )
    flags.DEFINE_enum(
        "cost", "flops", [*found.COSTS], "The cost of the front, and of the figure in any case."
    )
    for cost, what in found.COSTS.items():
        flags.DEFINE_float(
            f"most_{cost}",
            None,
            f"The most {what} that a network may take, relative to the dense network: 0.1.",
            lower_bound=0.0,
        )
    flags.DEFINE_integer("search_seed", 0, "The seed of the choices.", lower_bound=0)
    flags.DEFINE_integer("retries", 0, "How often a run that fails is tried again.", lower_bound=0)
    command.run(main, ["config", "workdir", "trials"])
