"""The methods under contract: one row each. A new method is one new row."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import optax

import sparsejax

SPARSITY = 0.75


class Method(NamedTuple):
    """One row of the contract table.

    Attributes:
      make: `(**options) -> rule`; options are `structure`, `prunable`, `distribution`.
      sparsity: Step -> the sparsity that the forward pass after so many updates has; None where it
        hangs on the weights.
      moves: Whether connections come back, at 0.
      grown_learn: Whether a connection that comes takes the gradient of the same step.
      structured: Whether it takes a structure.
      redistributes: Whether connections go from layer to layer, so that only their total stays.
      straight_through: Whether the stored weights stay dense: `chain(optimizer, rule)`, or
        `behind(optimizer, rule)` for a rule that acts on both sides of the optimizer.
      variant: Whether another row has the same algorithm with other options.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs | sparsejax.DenseRule]
    sparsity: Callable[[int], Fraction] | None
    moves: bool = False
    grown_learn: bool = False
    structured: bool = True
    redistributes: bool = False
    straight_through: bool = False
    variant: bool = False

    def transform(
        self, inner: optax.GradientTransformation, replace_step: bool = False, **options: Any
    ) -> optax.GradientTransformationExtraArgs:
        rule = self.make(**options)
        if isinstance(rule, sparsejax.DenseRule):
            return sparsejax.behind(inner, rule)
        if self.straight_through:
            return optax.chain(inner, rule)
        return sparsejax.sparsify(inner, rule, replace_step=replace_step)


def _constant(updates: int) -> Fraction:
    del updates
    return Fraction(3, 4)


def _after_first(updates: int) -> Fraction:
    return Fraction(3, 4) if updates else Fraction(0)


def _gradual(updates: int) -> Fraction:
    # Pruning at steps 1, 3 and, off the grid, 4, which are the updates number 2, 4 and 5.
    step = {0: None, 1: None, 2: 1, 3: 1, 4: 3}.get(updates, 4)
    if step is None:
        return Fraction(0)
    return Fraction(3, 4) * (1 - (1 - Fraction(step - 1, 3)) ** 3)


def _halves(updates: int) -> Fraction:
    return (Fraction(0), Fraction(1, 2), Fraction(1, 2))[updates] if updates < 3 else Fraction(3, 4)


def _in_cycles(updates: int) -> Fraction:
    # Two cycles of two steps; the sparsity in the middle of one is 7/8 of the last.
    return Fraction(3, 4) * (Fraction(0), 0, Fraction(7, 8), 0, Fraction(7, 8), 1)[min(updates, 5)]


def _in_turn(updates: int) -> Fraction:
    # Compressed at steps 0 and 1, dense at 2, 3 and 4, compressed from 5 on.
    return Fraction(3, 4) if updates in (1, 2) or updates > 5 else Fraction(0)


def _soft(updates: int) -> Fraction:
    # The first update of the masks is the third, at step 2; from there on twice as many are there.
    return Fraction(3, 4) if updates < 3 else Fraction(1, 2)


METHODS = {
    "static": Method(lambda **o: sparsejax.static(SPARSITY, **o), _constant),
    "magnitude_pruning": Method(
        lambda **o: sparsejax.magnitude_pruning(SPARSITY, **o), _after_first
    ),
    "magnitude_pruning in rounds": Method(
        lambda **o: sparsejax.magnitude_pruning(
            optax.piecewise_constant_schedule(0.5, {1: 1.5}),
            when=sparsejax.every(2, end=2),
            **o,
        ),
        _halves,
        variant=True,
    ),
    "magnitude_pruning by threshold": Method(
        lambda **o: sparsejax.magnitude_pruning(
            threshold=0.5, **{k: v for k, v in o.items() if k != "distribution"}
        ),
        None,
        variant=True,
    ),
    "magnitude_pruning by quality": Method(
        lambda **o: sparsejax.magnitude_pruning(
            quality=0.8, **{k: v for k, v in o.items() if k != "distribution"}
        ),
        None,
        variant=True,
    ),
    "magnitude_pruning layer by layer": Method(
        lambda **o: sparsejax.magnitude_pruning(
            {"*": SPARSITY}, **{k: v for k, v in o.items() if k != "distribution"}
        ),
        _after_first,
        variant=True,
    ),
    "gmp": Method(lambda **o: sparsejax.gmp(SPARSITY, begin=1, end=4, period=2, **o), _gradual),
    "gmp in cycles": Method(
        lambda **o: sparsejax.gmp(
            SPARSITY,
            begin=0,
            end=4,
            period=1,
            schedule=functools.partial(sparsejax.cyclic, cycles=2),
            **o,
        ),
        _in_cycles,
        variant=True,
    ),
    "taylor": Method(
        lambda **o: sparsejax.taylor(
            SPARSITY, begin=1, end=4, period=2, schedule=sparsejax.cubic, **o
        ),
        _gradual,
    ),
    "obd": Method(
        lambda **o: sparsejax.obd(SPARSITY, begin=1, end=4, period=2, **o), _gradual, variant=True
    ),
    "woodfisher": Method(
        lambda **o: sparsejax.woodfisher(
            SPARSITY, begin=1, end=4, period=2, samples=2, block=5, damping=0.1, **o
        ),
        _gradual,
    ),
    "set": Method(
        lambda **o: sparsejax.set_(SPARSITY, period=2, drop_fraction=0.5, **o),
        _constant,
        moves=True,
    ),
    "rigl": Method(
        lambda **o: sparsejax.rigl(SPARSITY, period=2, end=9, drop_fraction=0.5, **o),
        _constant,
        moves=True,
    ),
    "snfs": Method(
        lambda **o: sparsejax.snfs(SPARSITY, period=2, end=9, drop_fraction=0.5, **o),
        _constant,
        moves=True,
        structured=False,
        redistributes=True,
    ),
    "dsr": Method(
        lambda **o: sparsejax.dsr(SPARSITY, period=2, threshold=0.5, **o),
        _constant,
        moves=True,
        structured=False,
        redistributes=True,
    ),
    "mest": Method(
        lambda **o: sparsejax.mest(SPARSITY, period=2, drop_fraction=0.5, **o),
        _constant,
        moves=True,
    ),
    "mest with a soft bound": Method(
        lambda **o: sparsejax.mest(SPARSITY, period=2, drop_fraction=1.0, soft=True, **o),
        _soft,
        variant=True,
    ),
    "rigl_itop": Method(
        lambda **o: sparsejax.rigl_itop(SPARSITY, period=2, **o), _constant, variant=True
    ),
    "set_itop": Method(
        lambda **o: sparsejax.set_itop(SPARSITY, period=2, **o), _constant, variant=True
    ),
    "granet": Method(
        lambda **o: sparsejax.granet(
            SPARSITY, begin=1, end=4, period=2, drop_fraction=0.5, regrow_end=9, **o
        ),
        _gradual,
        moves=True,
    ),
    "srigl": Method(
        lambda **o: sparsejax.srigl(SPARSITY, period=2, drop_fraction=0.5, **o),
        None,
        moves=True,
        structured=False,
    ),
    "deep_r": Method(
        lambda **o: sparsejax.deep_r(SPARSITY, learning_rate=0.1, l1=1.0, temperature=0.01, **o),
        _constant,
        grown_learn=True,
    ),
    "cht": Method(
        lambda **o: sparsejax.cht(SPARSITY, period=2, drop_fraction=0.5, **o),
        _constant,
        moves=True,
        structured=False,
    ),
    "snip": Method(lambda **o: sparsejax.snip(SPARSITY, **o), _after_first),
    "acdc": Method(
        lambda **o: sparsejax.acdc(SPARSITY, begin=0, end=5, period=2, **o), _in_turn, moves=True
    ),
    "ste_magnitude": Method(
        lambda **o: sparsejax.ste_magnitude(SPARSITY, **o), _constant, straight_through=True
    ),
    "ste_random": Method(
        lambda **o: sparsejax.ste_random(SPARSITY, **o), _constant, straight_through=True
    ),
    "sr_ste": Method(lambda **o: sparsejax.sr_ste(SPARSITY, **o), _constant, straight_through=True),
    "top_kast": Method(
        lambda **o: sparsejax.top_kast(SPARSITY, backward_sparsity=0.5, **o),
        _constant,
        straight_through=True,
    ),
    "movement": Method(
        lambda **o: sparsejax.movement(SPARSITY, **o), _constant, straight_through=True
    ),
    "soft_movement": Method(
        lambda **o: sparsejax.soft_movement(
            penalty=0.1, **{k: v for k, v in o.items() if k != "distribution"}
        ),
        None,
        straight_through=True,
        variant=True,
    ),
    "soft_threshold": Method(
        lambda **o: sparsejax.soft_threshold(
            0.5, learning_rate=0.1, **{k: v for k, v in o.items() if k != "distribution"}
        ),
        None,
        structured=False,  # channels and blocks alone make groups
        straight_through=True,
        variant=True,
    ),
    "cram": Method(lambda **o: sparsejax.cram(SPARSITY, **o), _constant, straight_through=True),
}
