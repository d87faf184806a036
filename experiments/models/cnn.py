"""A small convolutional network, for tests and for trying things out."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class CNN(nn.Module):
    """Stages of a 3x3 convolution, rectifier and 2x2 max pooling, then two dense layers.

    Attributes:
      widths: channels of the convolutions.
      hidden: units of the hidden fully connected layer.
      classes: units of the last layer.
    """

    widths: Sequence[int]
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits ``[batch, classes]`` of ``[batch, height, width, channels]``."""
        x = images
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.classes)(x)


def small_cnn(widths: Sequence[int] = (32, 64), hidden: int = 128, classes: int = 10) -> nn.Module:
    """Returns a small convolutional network.

    With the default widths it has 421,642 parameters on 28x28x1 images. Each stage halves the
    image's sides.

    Args:
      widths: channels of the convolutions, one a stage.
      hidden: units of the hidden fully connected layer.
      classes: number of classes.

    Returns:
      The module.

    Raises:
      ValueError: if a width is not positive.

    Example:
      >>> small_cnn(widths=(8, 16), hidden=32)
      CNN(...)
    """
    if any(width < 1 for width in (*widths, hidden)):
        raise ValueError(f"widths {tuple(widths)} and hidden {hidden}: each must be at least 1")
    return CNN(tuple(widths), hidden, classes)
