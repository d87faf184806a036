"""The papers whose figures the configuration files reproduce.

A configuration file belongs to a paper if it sets ``PAPER`` to the paper's name. Its ``PUBLISHED``
holds the figures, one `experiments.published.Published` a row, or says in a string that there are
none for it. It may set ``FIGURES``: from the name of a figure to a function that draws it from the
finished runs of the file's rows and of its ``sweep()``.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments import grid
from experiments.errors import UserError
from experiments.published import Published
from experiments.runs import Run

FOLDER = Path(__file__).parents[1] / "configs"
"""Where the configuration files are."""

Drawing = Callable[[list[Run]], Figure]


class Part(NamedTuple):
    """What one configuration file contributes to a paper.

    Attributes:
      file: the file.
      config: its configuration.
      rows: its published figures.
      remark: why there are none, if there are none.
      sweep: what the further runs change in the configuration that its figures need.
      figures: how its figures are drawn, by their names.
    """

    file: Path
    config: ConfigDict
    rows: tuple[Published, ...]
    remark: str
    sweep: list[grid.Overrides]
    figures: Mapping[str, Drawing]

    def runs(self, row: Published, seeds: int) -> list[ConfigDict]:
        """Returns the configurations of a row, one for each of the seeds 0, 1, ..."""
        return [
            grid.override(self.config, {**row.overrides, "seed": seed}) for seed in range(seeds)
        ]

    def further_runs(self) -> list[ConfigDict]:
        """Returns the configurations that only the figures need."""
        return [grid.override(self.config, overrides) for overrides in self.sweep]


def find(folder: Path = FOLDER) -> dict[str, list[Part]]:
    """Returns the parts of every paper, by the paper's name.

    Args:
      folder: the folder of the configuration files.

    Returns:
      The papers in alphabetical order.

    Raises:
      UserError: if a file cannot be executed, or two rows of a paper have one name.

    Example:
      >>> sorted(row.row for part in find()["lee2019"] for row in part.rows)[0]
      'LeNet-300-100 SNIP 95 %'
    """
    papers: dict[str, list[Part]] = {}
    for file in sorted(folder.glob("*.py")):
        module = load(file)
        if "PAPER" in module:
            papers.setdefault(module["PAPER"], []).append(_part(file, module))
    for paper, parts in papers.items():
        names = [row.row for part in parts for row in part.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{paper}: more than one row is called {twice[0]!r}")
    return dict(sorted(papers.items()))


def load(file: Path) -> dict[str, Any]:
    """Executes a configuration file.

    Args:
      file: the file.

    Returns:
      What it defines, by name.

    Raises:
      UserError: if it cannot be executed.
    """
    spec = importlib.util.spec_from_file_location(f"configuration_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file}: cannot be executed: {type(error).__name__}: {error}") from error
    return vars(module)


def _part(file: Path, module: dict[str, Any]) -> Part:
    published, figures = module.get("PUBLISHED", ""), module.get("FIGURES", {})
    return Part(
        file,
        module["get_config"](),
        () if isinstance(published, str) else tuple(published),
        published if isinstance(published, str) else "",
        module["sweep"]() if figures and "sweep" in module else [],
        figures,
    )
