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

from pathlib import Path

from absl import flags

from experiments import command


def main() -> None:
    """Runs the experiment that the flags describe."""
    from experiments import procedures  # late: a wrong flag is refused, and help given, at once

    workdir = Path(str(flags.FLAGS.workdir))
    stop = command.stop_on_signals()
    procedures.run(command.config(), workdir, command.data_dir(), stop=stop)


if __name__ == "__main__":
    command.define_config()
    command.define_data_dir()
    flags.DEFINE_string(
        "workdir",
        None,
        "The directory of the run; created if there is none, continued if it has one.",
    )
    command.run(main, ["config", "workdir"])
