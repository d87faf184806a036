"""The table of the methods in README.md, made from the library's docstrings.

    python -m experiments.methods README.md

A method is a public function of one of the rooms below whose docstring has a section ``Needs:``.
What it does is the docstring's first sentence, the papers are its citations, such as "Evci et al.
2020, arXiv 1911.11134". The table takes the place of the one between the two marks in the file.
"""

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import app

import sparsejax
from experiments.errors import UserError

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
# Where methods live, and of which family they are; None where each has a section ``Family:``.
ROOMS = {
    "at_initialization": "before training",
    "algorithms": None,
    "reparameterization": "reparameterization",
    "post_training": "after training",
}
FAMILIES = (
    "before training",
    "dense to sparse",
    "sparse to sparse",
    "straight-through",
    "reparameterization",
    "after training",
)
_CITATION = re.compile(
    r"((?:de )?[A-Z][\w'’-]+(?: et al\.| & [A-Z][\w'’-]+) \d{4})(?:, arXiv ([\w./-]+\d))?"
)


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      name: how it is called, from `sparsejax` on.
      family: one of `FAMILIES`.
      does: what it does, a sentence.
      papers: citations and their arXiv numbers, empty where there is none.
      needs: what it needs beside the weights.
    """

    name: str
    family: str
    does: str
    papers: tuple[tuple[str, str], ...]
    needs: str


def methods() -> list[Method]:
    """Returns the methods of the library, by family and name.

    Raises:
      UserError: if a method's docstring lacks something.

    Example:
      >>> next(method for method in methods() if method.name == "rigl").papers
      (('Evci et al. 2020', '1911.11134'),)
    """
    found = []
    for room, family in ROOMS.items():
        package = importlib.import_module(f"{sparsejax.__name__}.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, function in inspect.getmembers(importlib.import_module(module.name)):
                own = getattr(function, "__module__", None) == module.name
                if own and callable(function) and _section(function, "Needs"):
                    public = getattr(sparsejax, name, None) is function
                    found.append(_method(name if public else f"{room}.{name}", function, family))
    return sorted(found, key=lambda method: (FAMILIES.index(method.family), method.name))


def _method(name: str, function: Callable[..., Any], family: str | None) -> Method:
    text = inspect.getdoc(function) or ""
    does = text.partition("\n\n")[0].replace("\n", " ").partition(". ")[0].removesuffix(".")
    papers = dict.fromkeys(_CITATION.findall(text.replace("\n", " ")))
    family = family or _section(function, "Family").lower()
    if family not in FAMILIES or not papers:
        raise UserError(
            f"{name}: its docstring needs a citation, and a section Family: with one of: "
            f"{', '.join(FAMILIES)}"
        )
    return Method(name, family, does, tuple(papers), _section(function, "Needs"))


def _section(function: Any, heading: str) -> str:
    """The text of a section of a docstring in one line, without the full stop at its end."""
    found = re.search(rf"^{heading}:\n((?:  .*\n?)+)", inspect.getdoc(function) or "", re.MULTILINE)
    return " ".join(found[1].split()).removesuffix(".") if found else ""


def table() -> str:
    """Returns the table, in Markdown."""
    lines = ["| family | method | what it does | paper | what it needs |", "|---|---|---|---|---|"]
    before = ""
    for method in methods():
        papers = ", ".join(
            f"{who} ([{n}](https://arxiv.org/abs/{n}))" if n else who for who, n in method.papers
        )
        family = "" if method.family == before else method.family
        cells = (family, f"`{method.name}`", method.does, papers, method.needs)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        before = method.family
    return "\n".join(lines)


def replaced(text: str) -> str:
    """Returns a text with the table between its marks made anew.

    Raises:
      UserError: if the text lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise UserError(f"the table's marks {BEGIN} and {END} are missing")
    return f"{before}{begin}\n{table()}\n{end}{after}"


def main(argv: list[str]) -> None:
    """Writes the table into the file that the arguments name, whole or not at all."""
    if len(argv) != 2:
        raise app.UsageError("give one file: python -m experiments.methods README.md")
    path = Path(argv[1])
    try:
        content = replaced(path.read_text())
    except (OSError, UserError) as error:
        sys.exit(f"error: {path}: {error}")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    app.run(main)
