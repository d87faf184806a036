"""The steps of published pseudo-code, slow and in NumPy, written without the library's helpers."""

import functools
from fractions import Fraction

import jax
import numpy as np

# Compiling the tiny programs of a test is what takes time.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def share_out(total, room, weights):
    """A total in proportion to weights: who is full drops out, the largest remainders round up."""
    room, given = [int(n) for n in room], {}
    while True:
        rest = total - sum(given.values())
        open_ = [i for i in range(len(room)) if i not in given]
        pull = {i: Fraction(float(weights[i])) for i in open_}
        if not any(pull.values()):
            pull = {i: Fraction(room[i]) for i in open_}
        whole = sum(pull.values())
        exact = {i: rest * p / whole if whole else Fraction(0) for i, p in pull.items()}
        numbers = {i: int(e) for i, e in exact.items()}
        by_remainder = sorted(open_, key=lambda i: (numbers[i] - exact[i], i))
        for i in by_remainder[: rest - sum(numbers.values())]:
            numbers[i] += 1
        full = {i: room[i] for i in open_ if numbers[i] >= room[i]}
        if not full:
            return [(given | numbers)[i] for i in range(len(room))]
        given |= full


def best(scores, allowed, number):
    """Flat indices of the largest scores among the allowed, the first of equals first."""
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-scores.flat[i], i))
    return order[:number]


def drop(mask, scores, number):
    """The mask without its lowest scores; of equals the last go."""
    left = np.zeros_like(mask)
    left.flat[best(scores, mask, int(mask.sum()) - number)] = True
    return left


def grow(mask, scores, number):
    """The mask and the highest scores off it."""
    grown = mask.copy()
    grown.flat[best(scores, ~mask, number)] = True
    return grown
