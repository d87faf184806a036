"""Every optimizer that optax exports and that can be built with its defaults, found by listing."""

import functools
import inspect
from collections.abc import Callable

import optax
from optax import contrib

# What the listing finds and cannot work, with the reason; a test checks each.
EXCLUDED = {
    "chain": "without arguments it is no transformation: optax itself fails on it",
    "lbfgs": "its line search wants leaves where optax.tree.map_params passes a placeholder, so "
    "its slots cannot be told apart; scale_by_lbfgs works",
    "optimistic_adam": "deprecated by optax in favour of optimistic_adam_v2",
    "scale_by_muon": "without dimension numbers optax itself fails on it; muon works",
}


def listed() -> dict[str, Callable[[], optax.GradientTransformation]]:
    """Name -> factory, for what can be built from defaults and a learning rate alone."""
    found = {}
    for module in (optax, contrib):
        for name, f in inspect.getmembers(module, inspect.isroutine):
            if name.startswith("_"):
                continue
            signature = inspect.signature(f)
            if "GradientTransformation" not in str(signature.return_annotation):
                continue
            needed = {
                p.name
                for p in signature.parameters.values()
                if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            }
            if needed <= {"learning_rate"}:
                found[name] = functools.partial(f, **dict.fromkeys(needed, 0.01))
    # optax warns that the noise's seed will have no default.
    found["noisy_sgd"] = functools.partial(optax.noisy_sgd, 0.01, key=0)
    return found
