"""LeNet-300-100: the fully connected network of LeCun et al., 'Gradient-based learning applied to
document recognition', Proceedings of the IEEE 86(11), 1998, with rectifiers, as the pruning
literature trains it."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.dropout import scaled_dropout


class MLP(nn.Module):
    """Fully connected layers with rectifiers between them.

    Attributes:
      widths: units of the hidden layers.
      classes: units of the last layer.
      dropout: rate of `scaled_dropout` on the hidden units.
    """

    widths: Sequence[int]
    classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, classes]``, of images of any shape ``[batch, ...]``."""
        x = images.reshape(len(images), -1)
        for width in self.widths:
            layer = nn.Dense(width)
            x = nn.relu(layer(x))
            if train and self.dropout:
                kernel = layer.variables["params"]["kernel"]
                x = scaled_dropout(x, kernel, self.dropout, self.make_rng("dropout"))
        return nn.Dense(self.classes)(x)


def lenet300(
    widths: Sequence[int] = (300, 100), classes: int = 10, dropout: float = 0.0
) -> nn.Module:
    """Returns LeNet-300-100, or the same network with other widths.

    On 28x28 images it has 266,200 weights and 410 biases.

    Args:
      widths: units of the hidden layers.
      classes: number of classes.
      dropout: the probability of dropping a hidden unit in training, were no weight pruned; see
        `experiments.models.dropout.scaled_dropout`.

    Returns:
      The module.

    Raises:
      ValueError: if a width is not positive.

    Example:
      >>> lenet300(widths=(16,))
      MLP(...)
    """
    if any(width < 1 for width in widths):
        raise ValueError(
            f"widths: {tuple(widths)} has a layer without units; each must be at least 1"
        )
    return MLP(tuple(widths), classes, dropout)
