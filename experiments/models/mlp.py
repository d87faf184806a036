"""LeNet-300-100: the fully connected network of LeCun et al., 'Gradient-based learning applied to
document recognition', Proceedings of the IEEE 86(11), 1998, with rectifiers, as the pruning
literature trains it."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.dropout import scaled_dropout

_INITIALIZERS = {
    "glorot_normal": nn.initializers.glorot_normal(),
    "lecun_normal": nn.initializers.lecun_normal(),
}


class MLP(nn.Module):
    """Fully connected layers with rectifiers between them.

    Attributes:
      widths: units of the hidden layers.
      classes: units of the last layer.
      kernel_init: draws the weights; the biases begin at 0.
      dropout: rate of `scaled_dropout` on the hidden units.
    """

    widths: Sequence[int]
    classes: int
    kernel_init: nn.initializers.Initializer = _INITIALIZERS["lecun_normal"]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, classes]``, of images of any shape ``[batch, ...]``."""
        x = images.reshape(images.shape[0], -1)
        for width in self.widths:
            layer = nn.Dense(width, kernel_init=self.kernel_init)
            x = nn.relu(layer(x))
            if train and self.dropout:
                kernel = layer.variables["params"]["kernel"]
                x = scaled_dropout(x, kernel, self.dropout, self.make_rng("dropout"))
        return nn.Dense(self.classes, kernel_init=self.kernel_init)(x)


def lenet300(
    widths: Sequence[int] = (300, 100),
    classes: int = 10,
    initializer: str = "lecun_normal",
    dropout: float = 0.0,
) -> nn.Module:
    """Returns LeNet-300-100, or the same network with other widths.

    On 28x28 images it has 266,200 weights and 410 biases.

    Args:
      widths: units of the hidden layers.
      classes: number of classes.
      initializer: of the weights, both truncated normal: ``lecun_normal`` of variance 1 / inputs,
        or ``glorot_normal`` of variance 2 / (inputs + outputs).
      dropout: the probability of dropping a hidden unit in training, were no weight pruned; see
        `experiments.models.dropout.scaled_dropout`.

    Returns:
      The module.

    Raises:
      ValueError: if a width is not positive, or the initializer unknown.

    Example:
      >>> lenet300(widths=(16,))
      MLP(...)
    """
    if any(width < 1 for width in widths):
        raise ValueError(
            f"widths: {tuple(widths)} has a layer without units; each must be at least 1"
        )
    if initializer not in _INITIALIZERS:
        raise ValueError(
            f"initializer: {initializer!r} is unknown; allowed: {', '.join(_INITIALIZERS)}"
        )
    return MLP(tuple(widths), classes, _INITIALIZERS[initializer], dropout)
