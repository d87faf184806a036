"""Labels: which positions along which axes are removed together.

Every position along every axis of every array of a program carries a label. A label is *free* (it
can be removed), *fixed* (it never is, for a recorded reason) or a *product* of others: where axes
are merged, as (heads, size) are in a reshape, a position goes when any of its factors goes.
Programs equate labels; this is unification, with union-find for the free ones. Where an equation
has no exact solution, labels are merged or fixed that need not be: what is called removable is.
"""

from collections.abc import Iterable, Sequence

import numpy as np

_MISMATCH = "it is laid out in two ways that do not match"


class Labels:
    """All labels of one program. They are whole numbers.

    >>> labels = Labels()
    >>> a, b, c = labels.new(3)
    >>> labels.equate([a], [labels.product([b, c])])
    >>> labels.fix([b], "an input")
    >>> labels.free(a) == labels.free(c), labels.free(b), labels.reason(b)
    (True, (), 'an input')
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._parts: dict[int, tuple[int, ...]] = {}
        self._reasons: dict[int, str] = {}
        self._open: list[tuple[int, int]] = []

    def new(self, n: int) -> np.ndarray:
        """Returns n free labels."""
        start = len(self._parents)
        self._parents.extend(range(start, start + n))
        return np.arange(start, start + n)

    def fixed(self, n: int, reason: str) -> np.ndarray:
        """Returns one fixed label, n times."""
        labels = np.repeat(self.new(1), n)
        self.fix(labels[:1], reason)
        return labels

    def product(self, parts: Sequence[int]) -> int:
        """Returns the label of positions that go when any of the parts goes."""
        label = int(self.new(1)[0])
        self._parts[label] = tuple(parts)
        return label

    def find(self, label: int) -> int:
        """Returns the label that stands for all that equal this one."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def free(self, label: int) -> tuple[int, ...]:
        """Returns the free labels whose removal removes this one; none for a fixed label."""
        root = self.find(label)
        if root in self._reasons:
            return ()
        if root not in self._parts:
            return (root,)
        return tuple(dict.fromkeys(x for part in self._parts[root] for x in self.free(part)))

    def reason(self, label: int) -> str | None:
        """Returns why a label is fixed, None for one that can be removed."""
        root = self.find(label)
        if self.free(root):
            return None
        if root in self._parts:
            return next(filter(None, map(self.reason, self._parts[root])), None)
        return self._reasons[root]

    def all_fixed(self, labels: Iterable[int]) -> bool:
        """Whether none of the labels can be removed."""
        return not any(self.free(label) for label in set(map(int, labels)))

    def fix(self, labels: Iterable[int], reason: str) -> None:
        """Forbids to remove the labels. The first reason stays."""
        for label in dict.fromkeys(map(int, labels)):
            for root in self.free(label):
                self._reasons[root] = reason

    def equate(self, some: Iterable[int], others: Iterable[int]) -> None:
        """States that each label of the one is removed exactly when that of the other is."""
        for a, b in zip(some, others, strict=True):
            if a != b:
                self._equate(int(a), int(b))

    def settle(self) -> None:
        """Solves the equations that had to wait, in the end by fixing labels."""
        while self._open:
            waiting, self._open = self._open, []
            for a, b in waiting:
                self._equate(a, b)
            if len(self._open) == len(waiting):
                a, b = self._open.pop()
                self.fix(set(self.free(a)) ^ set(self.free(b)), _MISMATCH)

    def _equate(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if b not in self._parts and b not in self._reasons:
            a, b = b, a
        of_a, of_b = self.free(a), self.free(b)
        if set(of_a) == set(of_b):
            return
        if a not in self._parts and a not in self._reasons:
            if a in of_b:
                self.fix(set(of_b) - {a}, _MISMATCH)
            else:
                self._parents[a] = b
        elif not of_a or not of_b:
            self.fix((*of_a, *of_b), self.reason(b if of_a else a) or "")
        elif len(of_a) == len(of_b):
            self.equate(of_a, of_b)
        else:
            self._open.append((a, b))  # one may turn out to be fixed
