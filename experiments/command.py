"""What the commands that take a configuration have in common: flags, messages, signals."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.errors import UserError


def define_config() -> None:
    """Defines ``--config``, and with it ``--config.KEY=VALUE``."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The configuration file, such as configs/mnist_lenet300_rigl.py. --config.KEY=VALUE sets a "
        "key of it; experiments/config.py lists the keys.",
        # Arguments that the file leaves at their defaults may be set as well. What the
        # configuration then holds is checked against the functions' signatures, so no key passes
        # unseen.
        lock_config=False,
        accept_new_attributes=True,
    )


def define_data_dir() -> None:
    """Defines ``--data_dir``."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory of the data sets; by default $SPARSEJAX_DATA, else ~/.cache/sparsejax. "
        "MNIST is looked for in its mnist/, CIFAR-10 in its cifar-10-batches-bin/.",
    )


def config() -> ConfigDict:
    """Returns the configuration that the flags describe."""
    return flags.FLAGS.config


def config_file() -> Path:
    """Returns the configuration file that the flags name, without an argument after a colon."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])


def data_dir() -> Path | None:
    """Returns the data directory that the flags name, None for the default."""
    return Path(flags.FLAGS.data_dir) if flags.FLAGS.data_dir else None


def shown(module: str) -> str:
    """Returns the command as it was given, without what is particular to this machine.

    Args:
      module: the name of its module in `experiments`.
    """
    private = ("address", "data_dir")
    given = [
        flag.serialize()
        for flag in (flags.FLAGS[name] for name in sorted(flags.FLAGS))
        if flag.present and flag.name not in private and not os.path.isabs(str(flag.value))
    ]
    return shlex.join(["python", "-m", f"experiments.{module}", *given])


def parse(argv: list[str]) -> list[str]:
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
        if "config" in flags.FLAGS:
            config().lock()
    except OSError as error:  # raised at the first access, and told at length
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"--config: the configuration file cannot be read: {reason}") from error
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"--config.KEY=VALUE: no such key to set: {error.args[0]}") from error
    if flags.FLAGS["verbosity"].using_default_value:
        # Else absl shows every note of every library.
        flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
    return rest


def run(main: Callable[[], Any], required: list[str]) -> None:
    """Runs a command; a user's error ends it with exit code 1 and a message, not a traceback.

    Args:
      main: the command, called once the flags are parsed.
      required: names of the flags that must be given.
    """

    def without_arguments(argv: list[str]) -> None:
        if len(argv) > 1:
            raise UserError(
                f"unexpected arguments: {' '.join(argv[1:])}; every option begins with --"
            )
        main()

    flags.mark_flags_as_required(required)
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):  # --help shows them as it does the command's own
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(without_arguments, flags_parser=parse)
    except UserError as error:
        sys.exit(f"error: {error}")


def stop_on_signals() -> Callable[[], bool]:
    """Lets SIGTERM and Ctrl-C ask for a stop; a second one does not wait.

    Returns:
      A function that says whether one has come.
    """
    stop = threading.Event()

    def on_signal(signum: int, frame: Any) -> None:
        stop.set()
        signal.signal(signum, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop.is_set
