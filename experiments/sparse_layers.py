"""Flax modules with sparse matrices among their parameters: the same network, other products."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparsejax.kernels import sparse_matmul


def apply(model: nn.Module, variables: Any, *args: Any, **options: Any) -> Any:
    """Calls a module's `apply`, with formats of `sparsejax.formats` in the place of some kernels.

    A dense layer and a convolution of 1 x 1 multiply with the sparse matrix. Any other module is
    given a dense kernel, which is made for the call.

    Args:
      model: The module.
      variables: Its variables; kernels may be formats.
      *args: What the module is called with.
      **options: What `apply` is called with besides.

    Returns:
      What `apply` returns.

    Example:
      >>> from sparsejax import formats
      >>> kernel = formats.CSR.from_dense(jnp.eye(2), jnp.eye(2, dtype=bool))
      >>> params = {"kernel": kernel, "bias": jnp.ones(2)}
      >>> apply(nn.Dense(2), {"params": params}, jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    with nn.intercept_methods(_multiply_sparse):
        return model.apply(variables, *args, **options)


def _multiply_sparse(call: Any, args: Any, options: Any, context: Any) -> Any:
    module = context.module
    if context.method_name != "__call__" or not isinstance(module, nn.Dense | nn.Conv):
        return call(*args, **options)
    kernel: Any = module.get_variable("params", "kernel")
    if kernel is None or isinstance(kernel, jax.Array):
        return call(*args, **options)
    if not _is_product(module):
        return module.clone(parent=None).apply(
            {"params": {**module.variables["params"], "kernel": kernel.todense()}}, *args, **options
        )
    [x] = args
    bias = module.get_variable("params", "bias") if module.use_bias else None
    dtype = module.dtype or jnp.result_type(x, kernel.values, *([] if bias is None else [bias]))
    if isinstance(module, nn.Conv):
        rows, columns = (
            (module.strides,) * 2 if isinstance(module.strides, int) else module.strides or (1, 1)
        )
        x = x[:, ::rows, ::columns]
    y = sparse_matmul(x.astype(dtype), kernel).astype(dtype)
    return y if bias is None else y + bias.astype(dtype)


def _is_product(module: nn.Module) -> bool:
    """Whether all that the layer does is one matrix product and a bias."""
    if isinstance(module, nn.Dense):
        return True
    sizes = (module.kernel_size,) if isinstance(module.kernel_size, int) else module.kernel_size
    plain = module.feature_group_count == 1 and module.padding in ("SAME", "VALID")
    return tuple(sizes) == (1, 1) and plain and module.input_dilation in (1, None, (1, 1))
