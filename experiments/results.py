"""Sections in a file of results, of papers and of sweeps, with how to obtain them again."""

import datetime
import importlib.metadata
import io
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments import records
from experiments.comparison import HEADINGS, Comparison, cells
from experiments.errors import UserError
from experiments.runs import Run

ROOT = Path(__file__).parents[1]


def check(file: Path, mark: str) -> None:
    """Checks that a section can be written to a file, before hours of training.

    Args:
      file: the file.
      mark: the section's name in it, as in `replaced`.

    Raises:
      UserError: if its folder is not there, it cannot be read, or it is damaged where the section
        is.
    """
    if not file.absolute().parent.is_dir():
        raise UserError(f"--results: {file.absolute().parent}: no such folder")
    replaced(_text(file), mark, "")


def write(
    file: Path,
    paper: str,
    command: str,
    comparisons: Sequence[Comparison],
    figures: Mapping[str, Figure],
) -> None:
    """Writes a paper's section, and its figures to the folder ``results`` beside the file.

    The other sections stay as they are.

    Args:
      file: the file, created if there is none.
      paper: the paper's name.
      command: the command that obtains the results.
      comparisons: the rows of the table.
      figures: the figures by their names.

    Raises:
      UserError: if the file cannot be read or written, or is damaged where the section is.
    """
    links = {stem: f"results/{paper}_{stem}.svg" for stem in figures}
    content = section(paper, command, comparisons, links, revision(ROOT, file))
    drawn = {links[stem]: _svg(figure) for stem, figure in figures.items()}
    _write(file, f"reproduce {paper}", content, drawn)


def write_sweep(
    file: Path,
    name: str,
    command: str,
    remark: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    finished: Sequence[Run],
) -> None:
    """Writes a sweep's section. The other sections stay as they are.

    Args:
      file: the file, created if there is none.
      name: what the sweep is called.
      command: the command that obtains the results.
      remark: what else a reader should know, a sentence or more.
      headings: the headings of its table.
      rows: the rows.
      finished: the runs behind it.

    Raises:
      UserError: if the file cannot be read or written, or is damaged where the section is.
    """
    seconds = [_seconds(run.summary) for run in finished if run.summary is not None]
    lines = [f"## {name}", "", f"    {command}", "", _made(seconds, revision(ROOT, file)), ""]
    lines += [remark, "", _row(headings), "|" + "---|" * len(headings), *map(_row, rows)]
    _write(file, f"sweep {name}", "\n".join(lines), {})


def _write(file: Path, mark: str, content: str, figures: Mapping[str, str]) -> None:
    """Writes a section, and figures by their files relative to it."""
    text = replaced(_text(file), mark, content)
    try:
        if figures:
            (file.parent / "results").mkdir(exist_ok=True)
        for link, drawn in figures.items():
            records.write_text(file.parent / link, drawn)
        records.write_text(file, text)
    except OSError as error:
        raise UserError(f"--results: {file} cannot be written: {error.strerror}") from error


def section(
    paper: str,
    command: str,
    comparisons: Sequence[Comparison],
    figures: Mapping[str, str],
    version: str = "",
) -> str:
    """Returns a paper's section in Markdown.

    Args:
      paper: the paper's name.
      command: the command that obtains the results.
      comparisons: the rows of the table.
      figures: the files of the figures by their names.
      version: the repository's revision; empty if it is unknown.
    """
    seconds = {
        run.path: _seconds(run.summary)
        for comparison in comparisons
        for run in comparison.runs.values()
        if run is not None and run.summary is not None
    }
    lines = [f"## {paper}", "", f"    {command}", "", _made([*seconds.values()], version), ""]
    lines += [_row((*HEADINGS, "source", "each seed")), "|" + "---|" * (len(HEADINGS) + 2)]
    for comparison in comparisons:
        each = ", ".join(f"{value:.2f}" for value in comparison.values.values())
        lines.append(_row((*cells(comparison), comparison.published.source, each)))
    for stem, link in figures.items():
        lines += ["", f"![{stem.replace('_', ' ')}]({link})"]
    return "\n".join(lines)


def _made(seconds: Sequence[float], version: str) -> str:
    """When, of what and by what results were made, in a sentence."""
    made = [
        datetime.date.today().isoformat(),
        *([f"revision {version}"] if version else []),
        f"{_processor()}, {cores()} cores in use",
        f"jax {importlib.metadata.version('jax')}",
        f"{sum(seconds) / 60:.0f} minutes of training in {len(seconds)} runs",
    ]
    return f"{'; '.join(made)}."


def replaced(text: str, mark: str, content: str) -> str:
    """Returns a file's text with a section replaced, or added at its end.

    Args:
      text: the text.
      mark: the section's name: what makes it, and of what.
      content: the section.

    Raises:
      UserError: if the section's marks are damaged.

    Example:
      >>> text = replaced('# Results', 'reproduce a', 'old')
      >>> replaced(text, 'reproduce a', 'new') == replaced('# Results', 'reproduce a', 'new')
      True
    """
    begin, end = (f"<!-- {mark}: {place} -->" for place in ("begin", "end"))
    block = f"{begin}\n{content}\n{end}"
    if text.count(begin) == text.count(end) == 0:
        return f"{text.rstrip()}\n\n{block}\n"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or not found:
        raise UserError(f"--results: the marks {begin} and {end} must occur once, in this order")
    return before + block + after


def _text(file: Path) -> str:
    try:
        return file.read_text() if file.exists() else "# Results\n"
    except (OSError, UnicodeError) as error:
        raise UserError(f"--results: {file} cannot be read: {error}") from error


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(re.sub(r"\s+", " ", text).replace("|", "\\|") for text in texts) + " |"


def _seconds(summary: Mapping[str, object]) -> float:
    """How long a run took: that of its stages where it has some."""
    stages = summary.get("stages")
    if isinstance(stages, Mapping):
        return sum(_seconds(stage) for stage in stages.values())
    seconds = summary.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _svg(figure: Figure) -> str:
    """A figure as SVG, the same text for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "sparsejax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _processor() -> str:
    """The name of the processor's model."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def revision(root: Path, file: Path) -> str:
    """Returns a repository's revision, and whether something but the results differs from it.

    Args:
      root: the folder of the repository.
      file: the file of results.

    Returns:
      The revision's abbreviated name, ``+ uncommitted changes`` behind it if there are any; nothing
      if the folder is no repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        name = git("rev-parse", "--short", "HEAD").strip()
        changed = [root / line[3:].strip('"') for line in git("status", "--porcelain").splitlines()]
    except (OSError, subprocess.CalledProcessError):
        return ""
    own = (file.absolute(), file.absolute().parent / "results")
    others = [path for path in changed if path not in own and own[1] not in path.parents]
    return name + (" + uncommitted changes" if others else "")
