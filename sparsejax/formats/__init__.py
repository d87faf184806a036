"""Sparse tensor formats: parameters that take less memory, with exact ways back.

Each format is an immutable pytree with `from_dense(array, mask)`, `todense()`, `coordinates()` and
`nbytes`. `choose` finds the smallest for a mask, `table` compares them for a whole tree, `save` and
`load` keep a network in a file.
"""

from sparsejax.formats.bitmask import Bitmask
from sparsejax.formats.bsr import BSR
from sparsejax.formats.convert import from_jax, from_scipy, to_bcoo, to_bcsr, to_scipy
from sparsejax.formats.coo import COO
from sparsejax.formats.csr import CSC, CSR
from sparsejax.formats.dense import Dense
from sparsejax.formats.fan_in import FanIn
from sparsejax.formats.file import Saved, load, save
from sparsejax.formats.matrix import Format, view
from sparsejax.formats.nm import NM
from sparsejax.formats.sizes import FORMATS, Choice, Row, Table, choose, sizes, table

__all__ = [
    "BSR",
    "COO",
    "CSC",
    "CSR",
    "FORMATS",
    "NM",
    "Bitmask",
    "Choice",
    "Dense",
    "FanIn",
    "Format",
    "Row",
    "Saved",
    "Table",
    "choose",
    "from_jax",
    "from_scipy",
    "load",
    "save",
    "sizes",
    "table",
    "to_bcoo",
    "to_bcsr",
    "to_scipy",
    "view",
]
