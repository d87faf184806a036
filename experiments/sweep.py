"""Trains all the runs of a configuration's sweep, in parallel, and survives what happens to them.

    python -m experiments.sweep --config configs/digits_sweep.py --workdir runs/digits

The configuration file has a function sweep() that returns the runs, each as what it changes in
get_config(): {"rule.sparsity": 0.9, "seed": 1}. Such lists are made with the functions over,
product, zip_, chain and seeds of experiments/grid.py. --config.KEY=VALUE holds for all runs.

Each run has a folder in the working directory, named after a digest of its configuration, with the
files that experiments.main makes, and log.txt. A finished run is not repeated; one that was
interrupted continues, and ends with the same bits; one that fails is recorded, with its traceback
in error.txt, and the others go on. The same command, given again, goes on where it stopped and
tries what failed once more. Several sweeps may work in one directory at a time, on one machine or
many that share it. SIGTERM and Ctrl-C let the runs save first.

    python -m experiments.report runs/digits

shows the runs in one page, also while they go on. In the end a table of methods and sparsities is
printed; --results writes it to a Markdown file, too.
"""

import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from experiments import board, command, grid, launchers, records, runs, standings, worker
from experiments.claims import attempts
from experiments.data import default_directory
from experiments.errors import UserError

POLL = 0.5
"""Seconds from one look at the runs to the next."""
GRACE = 60.0
"""Seconds that workers have to save when they are asked to stop."""
MOST_FALSE_STARTS = 3
"""Workers in a row that may end before they take a run, until the sweep gives up."""


def execute(
    configs: Sequence[ConfigDict],
    root: Path,
    *,
    launcher: launchers.Launcher,
    data_dir: Path | None = None,
    retries: int = 0,
    cohort: int = 1,
    console: Console | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[runs.Run]:
    """Runs what is not finished of a list of configurations.

    Args:
      configs: the configurations; one that occurs twice is run once.
      root: the folder of the runs' folders, created if there is none.
      launcher: where workers run; it is not closed.
      data_dir: where data sets lie; None for the default.
      retries: how often a run that fails is tried again.
      cohort: the most runs that train as one program; only runs that differ in nothing but numbers
        do.
      console: where progress is shown; None for standard output.
      stop: asked again and again; when it says True, the runs save, and the function returns.

    Returns:
      Every run as it then lies on the disk, in the order of the configurations.

    Raises:
      UserError: if the directory holds something else, or no worker can be started.
    """
    ids = [runs.identity(config) for config in configs]
    unique = dict(zip(ids, configs, strict=True))
    for name, config in unique.items():
        records.claim(root / name, config)
    # What failed before is tried again: the limit counts from here.
    failures = {
        name: 1 + retries + sum(attempt.outcome == "failed" for attempt in attempts(root / name))
        for name in unique
    }
    from experiments.cohort import groups  # late: help is given at once

    # Of all runs, also finished ones: an interrupted cohort must find itself again.
    listed = list(unique)
    tasks = [[listed[i] for i in group] for group in groups(list(unique.values()), cohort)]
    order = (root / ".workers" / f"{uuid.uuid4().hex[:8]}.json").absolute()
    data_dir = (data_dir or default_directory()).absolute()
    worker.Order(str(root.absolute()), tasks, failures, str(data_dir)).write(order)
    order_of_tasks = [unique[name] for task in tasks for name in task]
    view = board.Board(titles_of(order_of_tasks), console or Console())
    try:
        _supervise(order, launcher, view, stop)
    finally:
        view.close()
        for path in (order, worker.stop_file(order)):
            path.unlink(missing_ok=True)
    return [runs.read(root / name) for name in ids]


def _supervise(
    order: Path, launcher: launchers.Launcher, view: board.Board, stop: Callable[[], bool]
) -> None:
    """Keeps as many workers at work as there may be, until nothing is left to do."""
    asked = worker.Order.read(order)
    # In the order of the view, which that of the limits, in a file of JSON, is not.
    folders = {name: Path(asked.root) / name for task in asked.tasks for name in task}
    jobs: dict[str, launchers.Job] = {}
    done = {"finished", "failed"}
    started = false_starts = 0
    try:
        while not stop():
            began = time.monotonic()
            statuses = {name: board.look(folders[name], asked.failures[name]) for name in folders}
            view.show(list(statuses.values()))
            states = {name: status.state for name, status in statuses.items()}
            if set(states.values()) <= done:
                return
            for job in [job for job, handle in jobs.items() if not handle.running()]:
                del jobs[job]
                useful = "running" in states.values() or _has_worked(folders.values(), job)
                false_starts = 0 if useful else false_starts + 1
            if false_starts >= MOST_FALSE_STARTS:
                raise UserError(
                    f"{asked.root}: {false_starts} workers ended before they took a run; see "
                    f"{launcher.advice}"
                )
            tasks = [{states[name] for name in task} for task in asked.tasks]
            free = sum("running" not in task and not task <= done for task in tasks)
            # Workers that are just starting, or between two runs, will take one each.
            idle = len(jobs.keys() - {status.job for status in statuses.values()})
            for _ in range(min(launcher.parallel - len(jobs), free - idle)):
                started += 1
                job = f"{order.stem}-{started}"
                jobs[job] = launcher.start(order, job)
            # To look at a thousand runs takes long: it shall not take the cores from the workers.
            time.sleep(max(POLL, 20 * (time.monotonic() - began)))
        view.say("Stopping; the runs save first.")
    finally:
        _dismiss(order, jobs)


def _has_worked(folders: Iterable[Path], job: str) -> bool:
    return any(attempt.job == job for folder in folders for attempt in attempts(folder))


def _dismiss(order: Path, jobs: Mapping[str, launchers.Job]) -> None:
    """Asks the workers to save and stop, and ends those that do not."""
    worker.stop_file(order).touch()
    deadline = time.monotonic() + GRACE
    for job in jobs.values():
        while job.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        if job.running():
            job.cancel()


def titles_of(configs: Sequence[ConfigDict]) -> list[str]:
    """Returns what to call each of several runs: what sets it apart from the others.

    Args:
      configs: their configurations.

    Returns:
      For each the name of its rule, and the values in which it differs from others with that rule.

    Example:
      >>> rigl = {'name': 'rigl', 'sparsity': 0.9, 'period': 10}
      >>> runs = [(0, None), (0, rigl), (1, rigl)]
      >>> titles_of([ConfigDict({'seed': seed, 'rule': rule}) for seed, rule in runs])
      ['dense', 'rigl seed=0', 'rigl seed=1']
    """
    trees = [config.to_dict() for config in configs]
    flats = [records.flat(tree) for tree in trees]
    names = [str(flat.get("rule.name", flat.get("rule")) or "dense") for flat in flats]
    telling = {
        name: runs.differing([tree for tree, n in zip(trees, names, strict=True) if n == name])
        for name in set(names)
    }
    titles = []
    for flat, name in zip(flats, names, strict=True):
        values = (f"{k.removeprefix('rule.')}={flat[k]}" for k in telling[name] if k in flat)
        titles.append(" ".join([name, *values]))
    return titles


def configurations(config: ConfigDict, file: Path) -> list[ConfigDict]:
    """Returns the runs of a configuration file's sweep.

    Args:
      config: what the runs have in common.
      file: the configuration file, with a function ``sweep``.

    Returns:
      A configuration for each run.

    Raises:
      UserError: if the file has no such function, or the function returns no runs.
    """
    from experiments import papers  # late: it imports matplotlib

    module = papers.load(file)
    if "sweep" not in module:
        raise UserError(
            f"{file}: there is no function sweep() in it; it returns a list of runs, such as "
            "product(over('rule.sparsity', [0.9, 0.95]), seeds(3)), see experiments/grid.py"
        )
    overrides = module["sweep"]()
    if not overrides:
        raise UserError(f"{file}: sweep() returns no runs")
    return [grid.override(config, one) for one in overrides]


def prepare(configs: Sequence[ConfigDict], data_dir: Path | None) -> None:
    """Checks configurations before anything is trained.

    Raises:
      UserError: for the first that is wrong, with what is wrong.
    """
    from experiments import procedures  # late: help is given at once

    for config, title in zip(configs, titles_of(configs), strict=True):
        try:
            procedures.prepare(config, data_dir)
        except UserError as error:
            raise UserError(f"{title}: {error}") from error


def plan(configs: Sequence[ConfigDict], root: Path) -> Table:
    """Returns a table of runs and of how far they are."""
    table = Table("run", "state", "step", "folder", box=None)
    for config, title in zip(configs, titles_of(configs), strict=True):
        name = runs.identity(config)
        state, step = "new", ""
        if (root / name / "config.json").exists():
            status = board.look(root / name, failures=1)
            state, step = status.state, f"{status.step:,}"
        table.add_row(title, state, step, str(root / name))
    return table


def summary(results: Sequence[runs.Run]) -> str:
    """Returns what became of some runs, in a sentence."""
    states = [run.state for run in results]
    counts = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("finished", "failed", "started")
        if state in states
    )
    return f"{len(states)} runs: {counts}."


def exit_unless_finished(results: Sequence[runs.Run]) -> None:
    """Ends the command with exit code 1, and says why, if a run failed or was stopped."""
    failed = [run for run in results if run.state == "failed"]
    if failed:
        sys.exit(
            "error: some runs failed; their tracebacks are in\n"
            + "\n".join(f"  {run.path / 'error.txt'}" for run in failed)
        )
    if any(run.state != "finished" for run in results):
        sys.exit("Stopped; the same command continues.")


def main() -> None:
    """Runs the sweep that the flags describe."""
    values = flags.FLAGS
    root, console = Path(values.workdir), Console()
    from experiments import results as result_files  # late: it imports matplotlib

    configs = configurations(command.config(), command.config_file())
    if values.results:
        result_files.check(Path(values.results), f"sweep {command.config_file().stem}")
    prepare(configs, command.data_dir())
    if values.dry_run:
        console.print(plan(configs, root))
        return
    stop = command.stop_on_signals()
    launcher = launchers.from_flags()
    try:
        results = execute(
            configs,
            root,
            launcher=launcher,
            data_dir=command.data_dir(),
            retries=values.retries,
            cohort=values.cohort,
            console=console,
            stop=stop,
        )
    finally:
        launcher.close()
    found = standings.standings(results)
    console.print(standings.table(found), highlight=False)
    if values.results:
        result_files.write_sweep(
            Path(values.results),
            command.config_file().stem,
            command.shown("sweep"),
            _remark(configs),
            *standings.rows(found),
            results,
        )
    console.print(summary(results), highlight=False)
    exit_unless_finished(results)
    console.print(f"python -m experiments.report {root} shows them.", highlight=False)


def _remark(configs: Sequence[ConfigDict]) -> str:
    """What the numbers of a sweep's table mean."""
    steps = sorted({config.steps for config in configs})
    length = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    sizes = sorted({config.batch_size for config in configs})
    examples = ", ".join(map(str, sizes))
    return (
        "Test accuracy in percent, mean ± sample standard deviation over the seeds, by the "
        f"sparsity that was asked for. Each run takes {length} steps of {examples} examples."
    )


if __name__ == "__main__":
    command.define_config()
    command.define_data_dir()
    launchers.define_flags()
    flags.DEFINE_string(
        "workdir", None, "The directory of the runs; created if there is none, else continued."
    )
    flags.DEFINE_integer("retries", 0, "How often a run that fails is tried again.", lower_bound=0)
    flags.DEFINE_integer(
        "cohort",
        1,
        "The most runs that train as one program; only runs that differ in nothing but numbers, "
        "such as seed, sparsity or learning rate, do. On a GPU it fills the device; on a CPU it "
        "brings little but shared compilation: a step takes about 0.85 of the time, a short sweep "
        "half. Losses then differ from those of a run alone in the last bits, and drift.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "results", None, "A Markdown file in which the sweep's table is written, or replaced."
    )
    flags.DEFINE_bool("dry_run", False, "Show the runs and how far they are, and train nothing.")
    command.run(main, ["config", "workdir"])
