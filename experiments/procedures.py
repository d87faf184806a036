"""What can be done with a configuration: one network is trained, or a procedure in stages is run.

A procedure is a function ``(config, workdir, data_dir, *, stop, console, ...) -> summary``. The
arguments after these come from ``config.procedure``, which names it. It keeps the contract of a
single run: ``config.json`` says whose directory it is; what is finished there is not repeated, what
was interrupted continues to the same bits; when `stop` says True it saves and returns None;
``summary.json`` comes last. Each stage has a folder of its own with ``metrics.jsonl`` and
``summary.json``, and the procedure's summary holds those of its stages by their folders' names, in
``stages``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments import build, train
from experiments.config import check
from experiments.lottery import lottery
from experiments.post_training import post_training
from experiments.sensitivity import sensitivity

PROCEDURE = build.Role(
    {"lottery": lottery, "post_training": post_training, "sensitivity": sensitivity},
    called=False,
    given=5,
)


def prepare(config: ConfigDict, data_dir: Path | None = None) -> None:
    """Checks a configuration as `run` does. Nothing is compiled, and nothing written.

    Args:
      config: the configuration, as `experiments.config.default` describes it.
      data_dir: where data sets lie; None for the default.

    Raises:
      UserError: with the key's path and what is allowed, or the name of the file that is wrong.
    """
    train.prepare(config, data_dir)
    if config.procedure is not None:
        build.make(config.procedure, PROCEDURE, "config.procedure")


def run(
    config: ConfigDict,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Does what a configuration says, or continues to.

    Args:
      config: the configuration, as `experiments.config.default` describes it.
      workdir: where the files go; see `experiments.train.train`.
      data_dir: where data sets lie; None for the default.
      stop: asked again and again; when it says True, the run saves and returns.
      console: where progress is shown; None for standard output.

    Returns:
      The content of ``summary.json``; None if the run was stopped before its end.

    Raises:
      UserError: if the configuration, a data file or the working directory is wrong.
    """
    check(config)
    console = console or Console()
    if config.procedure is None:
        return train.train(config, workdir, data_dir, stop=stop, console=console).summary
    procedure = build.make(config.procedure, PROCEDURE, "config.procedure")
    summary: dict[str, Any] | None = procedure(
        config, workdir, data_dir, stop=stop, console=console
    )
    return summary
