"""Makes a report of a folder of runs: one page that opens in a browser, from the disk.

    python -m experiments.report runs/sweep --out report.html

The page holds a table of the runs that can be sorted, filtered and saved as CSV or Markdown, and
figures that can be saved as SVG or PNG: accuracy against sparsity, FLOPs and bytes, the training
curves, the densities of the layers, and how the masks move. It needs no network and no server.
Every run below the folder is in it, whether finished, failed or still running.
"""

import base64
import hashlib
import json
import os
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.errors import UserError
from experiments.report_data import collect

_SCRIPTS = ("base.js", "chart.js", "figures.js", "table.js", "main.js")


def page(data: dict[str, Any]) -> str:
    """Returns the page of a report.

    Args:
      data: what it shows, as `experiments.report_data.collect` returns it.

    Returns:
      HTML, in ASCII. Nothing in the data can become markup or a script; a policy in the page
      forbids all scripts but its own, and every connection.
    """
    files = resources.files("experiments") / "page"
    script = "".join((files / name).read_text() for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    style = (files / "style.css").read_text()
    parts = {
        "style": style,
        "script": script,
        "data": embedded(data),
        "style_hash": _sha256(style),
        "script_hash": _sha256(script),
    }
    # In one pass: what is filled in is not looked through again.
    return re.sub(
        r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (files / "page.html").read_text()
    )


def embedded(data: Any) -> str:
    r"""Returns JSON that may stand in a page's script element, in ASCII.

    Args:
      data: what `json` can write; NaN and infinity are refused.

    Returns:
      The JSON, in which no character has a meaning to HTML.

    Example:
      >>> embedded({"name": "</script>\u2028"})
      '{"name":"\\u003c/script\\u003e\\u2028"}'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write(root: Path, out: Path) -> dict[str, Any]:
    """Writes the report of a folder, whole or not at all.

    Args:
      root: a folder with runs below it.
      out: the page; its folder must exist.

    Returns:
      What the report shows.

    Raises:
      UserError: if there is no run, a file of one cannot be read, or the page cannot be written.
    """
    data = collect(root)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page(data))
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return data


def _sha256(text: str) -> str:
    """A hash as a page's policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def main(argv: list[str]) -> None:
    """Makes the report that the arguments ask for."""
    if len(argv) != 2:
        raise app.UsageError("give one folder of runs: python -m experiments.report DIR")
    out = Path(flags.FLAGS.out)
    try:
        states = write(Path(argv[1]), out)["states"]
    except UserError as error:
        sys.exit(f"error: {error}")
    print(
        f"{out}: {states['finished']} finished, {states['failed']} failed, "
        f"{states['started']} unfinished runs, {out.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    flags.DEFINE_string("out", "report.html", "The page to write; what was there is replaced.")
    app.run(main)
