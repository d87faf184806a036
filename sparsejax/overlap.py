"""How much two sets of masks have in common, beside what chance alone would give them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.masks import counts, spread
from sparsejax.typing import Masks, Params


class Overlap(NamedTuple):
    """What two masks share.

    Attributes:
      both: Entries that both keep.
      chance: Entries that two random masks with as many entries would share in the mean.
      first: Entries that the first keeps.
      second: Entries that the second keeps.
    """

    both: int
    chance: float
    first: int
    second: int

    @property
    def share(self) -> float:
        """Shared entries / entries that at least one keeps (Jaccard's index), 1 if both are empty.

        >>> Overlap(both=2, chance=1.0, first=4, second=2).share
        0.5
        """
        return _share(self.both, self.first, self.second)

    @property
    def chance_share(self) -> float:
        """The same with as many shared entries as chance gives.

        >>> Overlap(both=2, chance=1.0, first=4, second=2).chance_share
        0.2
        """
        return _share(self.chance, self.first, self.second)


def overlap(params: Params, first: Masks, second: Masks) -> dict[str, Overlap]:
    """Compares two sets of masks, such as those of two seeds, or of two methods.

    Two random masks that keep a and b of n entries share a b / n of them in the mean (that of a
    hypergeometric distribution). Only what goes beyond is agreement.

    Args:
      params: The parameters, arrays or `jax.ShapeDtypeStruct`s of any shapes.
      first: A mask tree; a scalar `True` marks a leaf that stays dense.
      second: Another one.

    Returns:
      By path, for each parameter that at least one of the two masks; and under ``""`` the sums, in
      which chance stands for random masks with as many entries in each layer.

    Example:
      >>> import jax.numpy as jnp
      >>> eight = jnp.arange(8)[None]
      >>> overlap({'w': jnp.ones((1, 8))}, {'w': eight < 4}, {'w': eight < 2})['w']
      Overlap(both=2, chance=1.0, first=4, second=2)
    """
    first, second = spread(first, params), spread(second, params)
    either = jax.tree.map(jnp.logical_or, first, second)  # of the shape that both fit into
    both, a, b = (
        counts(params, jax.tree.map(jnp.logical_and, one, other))
        for one, other in ((first, second), (first, either), (second, either))
    )
    result = {
        path: Overlap(
            n.kept, a[path].kept * b[path].kept / max(n.total, 1), a[path].kept, b[path].kept
        )
        for path, n in both.items()
    }
    sums = zip(*result.values(), strict=True)
    return result | {"": Overlap(*map(sum, sums)) if result else Overlap(0, 0.0, 0, 0)}


def _share(both: float, first: int, second: int) -> float:
    either = first + second - both
    return both / either if either else 1.0
