"""Masks as the gaps between kept entries, a byte each: fewer than the bits above 88 % zeros."""

import numpy as np

_STEP = 255


def encode(mask: np.ndarray) -> np.ndarray:
    """Writes down how many entries are skipped before each kept one, and at last before the end.

    A byte below 255 is such a number, the end counting as a kept entry; 255 skips 255 entries
    without keeping one.

    Args:
      mask: Booleans of any shape, read in row-major order.

    Returns:
      The bytes.

    >>> encode(np.arange(600) == 300).tolist()
    [255, 45, 255, 44]
    """
    stops = np.append(np.flatnonzero(mask), mask.size)
    gaps = np.diff(stops, prepend=-1) - 1
    steps = gaps // _STEP
    code = np.full(int(steps.sum()) + len(gaps), _STEP, np.uint8)
    code[np.cumsum(steps + 1) - 1] = gaps % _STEP
    return code


def decode(code: np.ndarray, size: int) -> np.ndarray:
    """Returns the mask that such bytes mean.

    Args:
      code: The bytes.
      size: Entries of the mask.

    Returns:
      Booleans of shape (size,).

    Raises:
      ValueError: if the bytes are not those of a mask of this size.

    >>> np.flatnonzero(decode(np.uint8([255, 45, 255, 44]), 600)).tolist()
    [300]
    """
    stop = code != _STEP
    ends = np.cumsum(code.astype(np.int64) + stop)[stop] - 1
    if not len(code) or not stop[-1] or ends[-1] != size:
        raise ValueError(f"the gaps do not end at the mask's {size} entries")
    mask = np.zeros(size, bool)
    mask[ends[:-1]] = True
    return mask
