"""The shape of a configuration: every key with its default, and the check of their values.

A configuration is an ``ml_collections.ConfigDict``. The keys at the top are fixed, and listed in
`default`. A key that holds a sub-configuration with a ``name`` (``data``, ``model``, ``optimizer``,
``procedure``, ``rule``, ``transform``) stands for a call of the public function of that name; its
other keys are the arguments, which `experiments.build` checks against the function's signature.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments.errors import UserError


def default() -> ConfigDict:
    """Returns what every experiment starts from: a dense network on the embedded digits.

    Example:
      >>> config = default()
      >>> config.rule = ConfigDict({'name': 'rigl', 'sparsity': 0.9, 'period': 20, 'end': 450})
      >>> config.data.name, config.rule.sparsity
      ('digits', 0.9)
    """
    config = ConfigDict()
    # Seed of the initial weights, of the order of the examples and, unless the rule is given its
    # own, of the masks.
    config.seed = 0
    # A data set of `experiments.data`.
    config.data = ConfigDict({"name": "digits"})
    # A model of `experiments.models`.
    config.model = ConfigDict({"name": "lenet300"})
    # An optimizer of `optax`; its learning rate is a number or a schedule of `optax`. A `penalty`
    # among its arguments is a term of `sparsejax.penalties` that is added to the gradient.
    config.optimizer = ConfigDict({"name": "adam", "learning_rate": 1e-3})
    # Coefficient of the L2 term whose gradient is added to that of the loss (not decoupled).
    config.weight_decay = 0.0
    # Coefficient of the L1 term, the sum of the parameters' magnitudes, likewise.
    config.l1 = 0.0
    # A mask rule of `sparsejax`, or None for a dense network. The methods before training and the
    # reparameterizations have their module's name before theirs, as in ``at_initialization.grasp``;
    # see `experiments.at_initialization` and `experiments.reparameterization`.
    config.rule = placeholder(ConfigDict)
    # How the rule joins the optimizer: `sparsify`; for rules whose weights stay dense `chain` or
    # `behind`, as their docstrings say; `reparameterize` for the reparameterizations.
    config.transform = ConfigDict({"name": "sparsify"})
    # What is done with all this: a name of `experiments.procedures`, or None to train one network.
    config.procedure = placeholder(ConfigDict)
    # Examples a step. An epoch's last, incomplete batch is dropped.
    config.batch_size = 128
    # Optimizer steps of the whole run.
    config.steps = 600
    # Most steps in one program, run by one dispatch to the device. Many save time on small
    # networks; convolutions on a CPU want 1: XLA compiles them well only outside of loops.
    config.steps_per_dispatch = 100
    # Steps in one training line of the metrics; a signal to stop is heeded after each.
    config.log_every = 20
    # Steps from one evaluation on the validation examples, and checkpoint, to the next.
    config.eval_every = 100
    return config


# Bounds that hold for an argument of that name wherever it occurs; what relates several arguments
# is the callee's check.
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at": (lambda value: value >= 0, "at least 0"),
    "backward_sparsity": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "batches": (lambda value: value >= 1, "at least 1"),
    "batch_size": (lambda value: value >= 1, "at least 1"),
    "begin": (lambda value: value >= 0, "at least 0"),
    "block": (lambda value: value >= 1, "at least 1"),
    "classes": (lambda value: value >= 2, "at least 2"),
    "coefficient": (lambda value: value >= 0, "at least 0"),
    "cycles": (lambda value: value >= 1, "at least 1"),
    "decay": (lambda value: value >= 0, "at least 0"),
    "decay_steps": (lambda value: value >= 1, "at least 1"),
    "dropout": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "drop_fraction": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "end": (lambda value: value >= 0, "at least 0"),
    "eval_every": (lambda value: value >= 1, "at least 1"),
    "init_value": (lambda value: value >= 0, "at least 0"),
    "initial_sparsity": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "l1": (lambda value: value >= 0, "at least 0"),
    "learning_rate": (lambda value: value >= 0, "at least 0"),
    "log_every": (lambda value: value >= 1, "at least 1"),
    "momentum": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "penalty": (lambda value: value >= 0, "at least 0"),
    "period": (lambda value: value >= 1, "at least 1"),
    "radius": (lambda value: value >= 0, "at least 0"),
    "samples": (lambda value: value >= 1, "at least 1"),
    "seed": (lambda value: 0 <= value < 2**32, "in [0, 2**32)"),
    "sparsity": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "steps_per_dispatch": (lambda value: value >= 1, "at least 1"),
    "steps": (lambda value: value >= 1, "at least 1"),
    "validation": (lambda value: value >= 1, "at least 1"),
    "weight_decay": (lambda value: value >= 0, "at least 0"),
}


def check_limits(path: str, value: Any) -> None:
    """Checks a number against the bounds of its name, the last part of its path.

    Args:
      path: the key's path, such as ``config.rule.sparsity``.
      value: the value; what is not a number has no bounds.

    Raises:
      UserError: if the number is out of bounds (NaN always is).

    Example:
      >>> check_limits('config.rule.sparsity', 1.0)
      Traceback (most recent call last):
          ...
      experiments.errors.UserError: config.rule.sparsity: 1.0 is impossible; allowed: in [0, 1)
    """
    name = path.rpartition(".")[2]
    if name in LIMITS and isinstance(value, int | float):
        holds, allowed = LIMITS[name]
        if not holds(value):
            raise UserError(f"{path}: {value!r} is impossible; allowed: {allowed}")


def check(config: ConfigDict) -> None:
    """Checks the keys at the top of a configuration: known, of the right type, possible.

    Raises:
      UserError: with the path of the key and what is allowed.

    Example:
      >>> check(default())
      >>> check(ConfigDict(default().to_dict() | {'stepz': 3}))
      Traceback (most recent call last):
          ...
      experiments.errors.UserError: config.stepz: unknown key; allowed: batch_size, data, ...
    """
    known = default()
    for key in config:
        if key not in known:
            raise UserError(f"config.{key}: unknown key; allowed: {', '.join(sorted(known))}")
    for key in known:
        path = f"config.{key}"
        if key not in config:
            raise UserError(f"{path}: this key is missing")
        value, kind = config[key], known.get_type(key)
        if key in ("procedure", "rule") and value is None:
            continue
        expected: tuple[type, ...] = (int, float) if kind is float else (kind,)
        if not isinstance(value, expected) or isinstance(value, bool):
            if kind is ConfigDict and isinstance(value, str):
                continue  # a bare string is a name without arguments
            wanted = "a sub-configuration with a name" if kind is ConfigDict else kind.__name__
            raise UserError(
                f"{path}: {value!r} is of type {type(value).__name__}; allowed: {wanted}"
            )
        check_limits(path, value)
    if config.eval_every % config.log_every:
        # One grid for all that happens between dispatches, so that a resumed run executes the same
        # programs.
        raise UserError(
            f"config.eval_every: {config.eval_every} is impossible; "
            f"allowed: a multiple of config.log_every, {config.log_every}"
        )
