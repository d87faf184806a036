"""Masks as places: where the entries on a mask are, in the order in which they are stored.

Places and masks are two views of one topology. A *topology* is a pytree with the structure of the
parameters: `Places` for what is sparse, a scalar True for what stays dense. Packed parameters are
an ordinary pytree, with the (count,) values at these places in the place of each sparse leaf.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax.formats import matrix
from sparsejax.kernels.indexed import Indexed, cpu
from sparsejax.kernels.product import why_not
from sparsejax.typing import Masks, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Where the entries of a sparse parameter are, by rows and by columns of its view.

    The entries are in the order of the rows. Indices of rows and columns are uint16 where that is
    enough, else int32: with one more of int32, each entry takes 8 bytes, or 12.

    Attributes:
      row_pointers: Where each row starts among the entries, and the last one ends, int32.
      columns: The column of each entry.
      column_pointers: Where each column starts, and the last one ends, int32.
      rows: The rows of the entries, column by column.
      by_column: The places of these among the entries, int32.
      shape: The shape of the parameter.
    """

    row_pointers: jax.Array
    columns: jax.Array
    column_pointers: jax.Array
    rows: jax.Array
    by_column: jax.Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    @property
    def count(self) -> int:
        """The number of entries."""
        return self.columns.size

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def flat(self) -> jax.Array:
        """Returns the place of each entry in the flat parameter, ascending, int32."""
        rows = matrix.expand_pointers(self.row_pointers, self.count)
        return rows * matrix.view(self.shape)[1] + self.columns.astype(jnp.int32)

    def mask(self) -> jax.Array:
        """Returns the mask, of the shape of the parameter."""
        return self.scatter(jnp.ones(self.count, bool))

    def gather(self, array: jax.Array) -> jax.Array:
        """Returns the entries of an array of the parameter's shape at these places."""
        return array.ravel().at[self.flat()].get(**_SORTED)

    def scatter(self, values: jax.Array) -> jax.Array:
        """Returns the array of the parameter's shape with these entries, and 0 elsewhere."""
        zeros = jnp.zeros(math.prod(self.shape), values.dtype)
        return zeros.at[self.flat()].set(values, **_SORTED).reshape(self.shape)

    def weights(self, values: jax.Array) -> Indexed:
        """Returns the sparse matrix with these entries, ready for `kernels.sparse_matmul`."""
        return Indexed(
            values,
            self.row_pointers,
            self.columns,
            None,
            self.column_pointers,
            self.rows,
            self.by_column,
            self.shape,
        )


_SORTED: dict[str, Any] = {
    "indices_are_sorted": True,
    "unique_indices": True,
    "mode": "promise_in_bounds",
}


def places_of(mask: jax.Array, count: int | None = None) -> Places:
    """Finds the entries that are on a mask.

    Args:
      mask: A bool array of the shape of the parameter, of at least one axis; it may be traced if
        the count is given.
      count: How many entries are on the mask; None to count them. Of more, the first are taken.

    >>> places = places_of(jnp.array([[False, True, True], [True, False, False]]))
    >>> places.flat().tolist(), places.rows.tolist(), places.by_column.tolist()
    ([1, 2, 3], [1, 0, 0], [2, 0, 1])
    """
    height, width = matrix.view(mask.shape)
    count = int(mask.sum()) if count is None else count
    if why_not("cpu", jnp.float32) is None:
        found = cpu().find(mask.reshape(height, width), count)
    else:
        [flat] = jnp.nonzero(mask.ravel(), size=count, fill_value=height * width)
        rows, columns = jnp.divmod(flat, max(width, 1))
        by_column = jnp.argsort(columns, stable=True)
        row_pointers = jnp.searchsorted(rows, jnp.arange(height + 1))
        column_pointers = jnp.searchsorted(columns[by_column], jnp.arange(width + 1))
        found = row_pointers, columns, column_pointers, rows[by_column], by_column
    row_pointers, columns, column_pointers, rows, by_column = found
    return Places(
        row_pointers.astype(jnp.int32),
        columns.astype(_index_type(width)),
        column_pointers.astype(jnp.int32),
        rows.astype(_index_type(height)),
        by_column.astype(jnp.int32),
        mask.shape,
    )


def _index_type(length: int) -> Any:
    return jnp.uint16 if length <= 2**16 else jnp.int32


def is_places(x: Any) -> bool:
    """Returns whether this is a sparse leaf of a topology."""
    return isinstance(x, Places)


def topology_of(params: Params, masks: Masks) -> Any:
    """Finds the places of all masks that have the shape of their parameter.

    Args:
      params: Any pytree of arrays; only the shapes matter.
      masks: The mask tree, of concrete arrays.

    Raises:
      ValueError: if a mask has another shape, as those of channels have: what lies off them is
        better cut out (`surgery`) than packed.

    >>> topology = topology_of({"w": jnp.ones(2)}, {"w": jnp.array([False, True])})
    >>> topology["w"].flat().tolist()
    [1]
    """

    def places(path: Any, p: jax.Array, mask: jax.Array) -> Any:
        if not mask.ndim and bool(mask):
            return mask
        if mask.shape != p.shape:
            raise ValueError(
                f"{mask_trees.path_name(path)}: a mask of shape {mask.shape} cannot be packed, "
                f"only one of the parameter's own shape {p.shape}; surgery cuts out whole channels"
            )
        return places_of(mask)

    return jax.tree_util.tree_map_with_path(places, params, mask_trees.spread(masks, params))


def masks_of(topology: Any) -> Masks:
    """Returns the mask tree of a topology.

    >>> mask = jnp.array([False, True])
    >>> masks_of({"w": places_of(mask)})["w"].tolist()
    [False, True]
    """
    return jax.tree.map(lambda t: t.mask() if is_places(t) else t, topology, is_leaf=is_places)


def pack(params: Params, topology: Any) -> Params:
    """Returns the packed form of dense parameters, or of anything else of their shapes.

    >>> topology = {"w": places_of(jnp.array([[False, True], [True, False]])), "b": jnp.array(True)}
    >>> packed = pack({"w": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.ones(2)}, topology)
    >>> packed["w"].tolist(), packed["b"].tolist()
    ([2.0, 3.0], [1.0, 1.0])
    """
    return _where_sparse(Places.gather, topology, params)


def unpack(values: Params, topology: Any) -> Params:
    """Returns the dense form of packed parameters, exactly 0 off the masks.

    >>> topology = {"w": places_of(jnp.array([[False, True], [True, False]]))}
    >>> unpack({"w": jnp.array([2.0, 3.0])}, topology)["w"].tolist()
    [[0.0, 2.0], [3.0, 0.0]]
    """
    return _where_sparse(Places.scatter, topology, values)


def weights(values: Params, topology: Any) -> Params:
    """Returns parameters whose sparse leaves are sparse matrices, for `kernels.sparse_matmul`.

    >>> topology = {"w": places_of(jnp.array([[False, True], [True, False]]))}
    >>> weights({"w": jnp.array([2.0, 3.0])}, topology)["w"].todense().tolist()
    [[0.0, 2.0], [3.0, 0.0]]
    """
    return _where_sparse(Places.weights, topology, values)


def _where_sparse(function: Callable[[Places, Any], Any], topology: Any, tree: Params) -> Params:
    """The function of places and leaf where a topology has places; the other leaves as they are."""
    return jax.tree.map(
        lambda t, leaf: function(t, leaf) if is_places(t) else leaf,
        topology,
        tree,
        is_leaf=is_places,
    )
