"""Repeats the experiments of a paper, and shows what was published beside what was measured.

    python -m experiments.reproduce --list
    python -m experiments.reproduce --paper lee2019 --results RESULTS.md

A paper is all the configuration files in configs/ that set PAPER to its name; the rows of its table
are their PUBLISHED. Each row is trained with the seeds 0, 1, ... Rows that a CPU cannot train in
reasonable time are left out, and the table says why; --only ROW trains one row alone, also such a
one. The runs lie in --workdir, each in a folder named after a digest of its configuration: what is
finished there is not trained again, what was interrupted continues.

A row agrees if the mean over its seeds is within its tolerance of the published figure. The table
says "better" where the mean misses it on the good side, "no" where it misses it on the other.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import command, comparison, launchers, papers, results, runs, sweep
from experiments.comparison import Comparison
from experiments.errors import UserError
from experiments.published import Published

Execute = Callable[[list[ConfigDict], Path], list[runs.Run]]
"""Runs what is not finished, each in its folder of a folder, and returns every run."""


class Reproduction(NamedTuple):
    """What came out.

    Attributes:
      comparisons: the rows of the table.
      figures: the functions that draw the figures, by their names.
      executed: the runs that were asked for.
    """

    comparisons: list[Comparison]
    figures: dict[str, Callable[[], Figure]]
    executed: list[runs.Run]


def reproduce(
    parts: Sequence[papers.Part],
    root: Path,
    *,
    seeds: int,
    only: str | None = None,
    execute: Execute,
) -> Reproduction:
    """Trains what a paper's table needs, and compares.

    Args:
      parts: the paper.
      root: the folder of the runs.
      seeds: runs of each row.
      only: the name of the only row to train; rows that are not trained are shown by what lies in
        the folder.
      execute: runs the configurations.

    Returns:
      The comparisons, figures and runs. There are no figures if only one row was asked for.
    """
    wanted = [config for config, _ in planned(parts, seeds, only)]
    executed = execute(wanted, root) if wanted else []
    by_name = {runs.identity(c): run for c, run in zip(wanted, executed, strict=True)}

    def look(config: ConfigDict) -> runs.Run | None:
        name = runs.identity(config)
        if name not in by_name and (root / name / "config.json").exists():
            by_name[name] = runs.read(root / name)
        return by_name.get(name)

    comparisons: list[Comparison] = []
    figures: dict[str, Callable[[], Figure]] = {}
    for part in parts:
        found = []
        for row in part.rows:
            of_row = {seed: look(config) for seed, config in enumerate(part.runs(row, seeds))}
            comparisons.append(Comparison(row, of_row, reason(row, only)))
            found += list(of_row.values())
        if only is None:
            found += [look(config) for config in part.further_runs()]
            distinct = {run.path: run for run in found if run and run.state == "finished"}
            if distinct:
                figures |= {
                    name: functools.partial(draw, [*distinct.values()])
                    for name, draw in part.figures.items()
                }
    return Reproduction(comparisons, figures, executed)


def planned(
    parts: Sequence[papers.Part], seeds: int, only: str | None = None
) -> list[tuple[ConfigDict, float]]:
    """Returns what is trained, each once, with the expected minutes of each."""
    plan: dict[str, tuple[ConfigDict, float]] = {}

    def add(config: ConfigDict, minutes: float) -> None:
        plan.setdefault(runs.identity(config), (config, minutes))

    for part in parts:
        for row in part.rows:
            if not reason(row, only):
                for config in part.runs(row, seeds):
                    add(config, row.minutes)
        if only is None:
            minutes = [row.minutes for row in part.rows if not row.not_run] or [1.0]
            for config in part.further_runs():
                add(config, sum(minutes) / len(minutes))
    return list(plan.values())


def reason(row: Published, only: str | None) -> str:
    """Returns why a row is not trained; empty if it is."""
    if only is not None:
        return "" if row.row == only else row.not_run or "not asked for"
    return row.not_run


def select(
    found: Mapping[str, list[papers.Part]], paper: str, only: str | None
) -> list[papers.Part]:
    """Returns the parts of a paper.

    Args:
      found: the parts of every paper.
      paper: the paper's name.
      only: the name of a row of it, or None.

    Raises:
      UserError: if there is no such paper or row, with what there is.
    """
    if paper not in found:
        raise UserError(f"--paper: {paper!r} is unknown; there are: {', '.join(found) or 'none'}")
    rows = [row.row for part in found[paper] for row in part.rows]
    if only is not None and only not in rows:
        listed = "".join(f"\n  {row}" for row in rows)
        raise UserError(f"--only: {paper} has no row {only!r}; its rows are:{listed}")
    return found[paper]


def overview(paper: str, parts: Sequence[papers.Part], seeds: int, parallel: int) -> Table:
    """Returns the table of what a paper published and of what its reproduction takes."""
    plan = planned(parts, seeds)
    minutes = sum(minutes for _, minutes in plan) / parallel
    table = Table(
        *("row", "published", "source", "runs", "minutes", "not run because"),
        title=f"{paper}: {len(plan)} runs, about {minutes:.0f} minutes",
        title_justify="left",
        box=box.HORIZONTALS,
    )
    for part in parts:
        for row in part.rows:
            texts = [row.row, comparison.claimed(row), row.source]
            texts += ["0", "", row.not_run] if row.not_run else [
                str(seeds), f"{row.minutes * seeds / parallel:.0f}", ""
            ]  # fmt: skip
            table.add_row(*map(Text, texts))
        if part.remark:
            table.add_row(Text(part.file.name), Text(part.remark))
    further = len(plan) - len(planned([p._replace(figures={}, sweep=[]) for p in parts], seeds))
    if further:
        table.add_row("the figures need", "", "", str(further), "", "")
    return table


def main() -> None:
    """Does what the flags say."""
    values, console = flags.FLAGS, Console()
    found = papers.find()
    if values.list:
        chosen = [values.paper] if values.paper else list(found)
        parallel = values.parallel or results.cores()
        for paper in chosen:
            console.print(
                overview(paper, select(found, paper, None), values.seeds, parallel), highlight=False
            )
        return
    if not values.paper:
        raise UserError(f"--paper: name one of {', '.join(found)}; --list shows what they hold")
    parts = select(found, values.paper, values.only)
    if values.results:
        results.check(Path(values.results), f"reproduce {values.paper}")
    configs = [config for config, _ in planned(parts, values.seeds, values.only)]
    sweep.prepare(configs, command.data_dir())
    stop = command.stop_on_signals()
    launcher = launchers.from_flags()
    execute = functools.partial(
        sweep.execute, launcher=launcher, data_dir=command.data_dir(), console=console, stop=stop
    )
    try:
        outcome = reproduce(
            parts, Path(values.workdir), seeds=values.seeds, only=values.only, execute=execute
        )
    finally:
        launcher.close()
    console.print(comparison.table(values.paper, outcome.comparisons), highlight=False)
    if values.results:
        file = Path(values.results)
        figures = {name: draw() for name, draw in outcome.figures.items()}
        results.write(file, values.paper, command.shown("reproduce"), outcome.comparisons, figures)
        console.print(f"The section {values.paper} of {file} is written.", highlight=False)
    sweep.exit_unless_finished(outcome.executed)


if __name__ == "__main__":
    command.define_data_dir()
    launchers.define_flags()
    flags.DEFINE_string("paper", None, "The paper; --list shows which there are.")
    flags.DEFINE_string("only", None, "The only row to train.")
    flags.DEFINE_integer("seeds", 3, "Runs of each row, with the seeds 0, 1, ...", lower_bound=1)
    flags.DEFINE_string("workdir", "runs/reproduce", "The directory of the runs.")
    flags.DEFINE_string(
        "results", None, "A Markdown file in which the paper's section is written, or replaced."
    )
    flags.DEFINE_bool(
        "list", False, "Show the papers, their rows and what they take; train nothing."
    )
    command.run(main, [])
