"""Timing of several things side by side on a noisy machine."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from rich.progress import track


def interleaved(
    programs: Mapping[str, Callable[[], object]], rounds: int, *, calls: int = 1
) -> dict[str, np.ndarray]:
    """Times programs in turn, so that what slows the machine down slows all of them.

    Args:
      programs: By name a function without arguments, called once before it is timed. A jax result
        is waited for.
      rounds: How often each is timed.
      calls: How many calls in a row are timed, as a training loop makes them. Where it is more than
        one, a call goes before them: it fills the caches, which the other programs have emptied.

    Returns:
      By name the seconds of a call in each round.
    """
    for program in track(programs.values(), "compiling", transient=True):
        jax.block_until_ready(program())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in track(range(rounds), "measuring", transient=True):
        for name, program in programs.items():
            if calls > 1:
                jax.block_until_ready(program())
            begun = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(program())
            seconds[name].append((time.perf_counter() - begun) / calls)
    return {name: np.array(times) for name, times in seconds.items()}


def ratio(times: np.ndarray, base: np.ndarray) -> float:
    """Returns the median over the rounds of a program's time as a multiple of another's.

    >>> ratio(np.array([2.0, 9.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    2.0
    """
    return float(np.median(times / base))
