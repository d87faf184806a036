"""Trains a sparse, or a dense, network as a configuration file says.

Usage, from the root of the repository:

    python -m experiments.main --config configs/mnist_lenet300_rigl.py --workdir runs/rigl

Any value of the configuration can be set, and arguments of the functions that it names can be
added:

    --config.seed=1 --config.rule.sparsity=0.95 --config.rule.distribution=uniform

The working directory receives config.json, metrics.jsonl, summary.json, checkpoints/ and
tensorboard/. A run that was interrupted, in whatever way, continues when the same command is given
again, and ends with the same bits. SIGTERM and Ctrl-C make it save first.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The configuration file, such as configs/mnist_lenet300_rigl.py. --config.KEY=VALUE sets a "
    "key of it; experiments/config.py lists the keys.",
    # Arguments that the file leaves at their defaults may be set as well. What the configuration
    # then holds is checked against the functions' signatures, so no key passes unseen.
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory of the run; created if there is none, continued if it has one."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "The directory of the data sets; by default $SPARSEJAX_DATA, else ~/.cache/sparsejax. MNIST "
    "is looked for in its mnist/, CIFAR-10 in its cifar-10-batches-bin/.",
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    if len(argv) > 1:
        raise UserError(f"unexpected arguments: {' '.join(argv[1:])}; every option begins with --")
    from experiments import procedures  # late: a wrong flag is refused, and help given, at once

    stop = threading.Event()

    def on_signal(signum: int, frame: Any) -> None:
        stop.set()
        signal.signal(signum, signal.SIG_DFL)  # a second one does not wait

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    data_dir = Path(_DATA_DIR.value) if _DATA_DIR.value else None
    procedures.run(_CONFIG.value, Path(str(_WORKDIR.value)), data_dir, stop=stop.is_set)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line.

    Args:
      argv: the program's name and its arguments.

    Returns:
      The program's name and the arguments that are no flags.

    Raises:
      UserError: if the configuration file cannot be read or has no such key to override.
    """
    try:
        rest = app.parse_flags_with_usage(argv)
        _CONFIG.value.lock()
    except OSError as error:  # raised at the first access, and told at length
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"--config: the configuration file cannot be read: {reason}") from error
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"--config.KEY=VALUE: no such key to set: {error.args[0]}") from error
    if flags.FLAGS["verbosity"].using_default_value:
        # Else absl shows every note of every library.
        flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
    return rest


def run() -> None:
    """Runs the command; a user's error ends it with exit code 1 and a message, not a traceback."""
    flags.mark_flags_as_required(["config", "workdir"])
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
