"""Reparameterizations of a run: ``{"name": "reparameterization.str_", "initial": -5.0}`` as a rule.

With ``transform = {"name": "reparameterize"}`` the optimizer trains what the function of that name
in `sparsejax.reparameterization` makes of the network's parameters. Steps use its `apply`, with its
penalty; evaluations, densities and the summary are those of the network that its `finish` leaves.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from sparsejax import reparameterization
from sparsejax.reparameterization import Reparameterization

PREFIX = "reparameterization."
"""What the names of these rules begin with."""


def rules() -> dict[str, Callable[..., Reparameterization]]:
    """Returns the functions of `sparsejax.reparameterization` by the names of their rules.

    Example:
      >>> sorted(rules())[0]
      'reparameterization.continuous_sparsification'
    """
    return {
        PREFIX + name: function
        for name, function in inspect.getmembers(reparameterization, inspect.isfunction)
    }


def reparameterize(
    inner: optax.GradientTransformation, rule: Any
) -> optax.GradientTransformationExtraArgs:
    """Lets the optimizer train a reparameterization as it is: a rule that makes no masks."""
    del rule
    return optax.with_extra_args_support(inner)
