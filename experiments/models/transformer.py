"""A small decoder-only transformer (Vaswani et al. 2017, arXiv:1706.03762; layer norms first, as in
GPT-2), for language models of characters."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Attention(nn.Module):
    """Causal self-attention: each position looks at those up to itself.

    Attributes:
      heads: the head h is the h-th share of the outputs of query, key and value, and of the inputs
        of out.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`, ``[batch, length, width]``."""
        *batch, length, width = x.shape
        query, key, value = (
            nn.Dense(width, name=name)(x).reshape(*batch, length, self.heads, -1)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / (width // self.heads) ** 0.5
        scores = jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf)
        read = jnp.einsum("...hqk,...khd->...qhd", nn.softmax(scores), value)
        return nn.Dense(width, name="out")(read.reshape(x.shape))


class FeedForward(nn.Module):
    """Two layers, the one between them four times as wide."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`, ``[..., width]``."""
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1], name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(hidden)


class Block(nn.Module):
    """Attention and a feed-forward layer, each beside a residual connection.

    Attributes:
      heads: of the attention.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`, ``[batch, length, width]``."""
        x = x + Attention(self.heads, name="attention")(nn.LayerNorm(name="attention_norm")(x))
        return x + FeedForward(name="mlp")(nn.LayerNorm(name="mlp_norm")(x))


class Transformer(nn.Module):
    """Embeddings of characters and positions, blocks, and the logits of the next character.

    Attributes:
      layers: number of blocks.
      width: of what runs through them.
      heads: of the attention.
      classes: number of different characters.
    """

    layers: int
    width: int
    heads: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits, ``[batch, length, classes]``, of the characters that follow.

        Args:
          images: the numbers of characters, ``[batch, length]``.
          train: not used; nothing differs in training.
        """
        init = nn.initializers.normal(0.02)
        positions = self.param("position_embedding", init, (images.shape[-1], self.width))
        x = nn.Embed(self.classes, self.width, embedding_init=init, name="embed")(images)
        x = x + positions
        for i in range(self.layers):
            x = Block(self.heads, name=f"block_{i}")(x)
        # Called so that it stays dense with the other embeddings, as in the pruning literature.
        return nn.Dense(self.classes, name="unembed")(nn.LayerNorm(name="norm")(x))


def text_transformer(
    layers: int = 4, width: int = 192, heads: int = 6, classes: int = 65
) -> nn.Module:
    """Returns a transformer for texts.

    Its weights that can be pruned are 12 layers width²: 1.8 million as it stands, 4.7 with 6 layers
    of 256. A text may not be longer than those that it was initialised with.

    Args:
      layers: number of blocks.
      width: of what runs through them.
      heads: of the attention; they divide the width.
      classes: number of different characters.

    Returns:
      The module.

    Raises:
      ValueError: if a number is not positive, or the heads do not divide the width.

    Example:
      >>> text_transformer(layers=2, width=64, heads=4)
      Transformer(...)
    """
    for name, value in {"layers": layers, "width": width, "heads": heads}.items():
        if value < 1:
            raise ValueError(f"{name}: {value} must be at least 1")
    if width % heads:
        raise ValueError(f"heads: {heads} must divide the width, {width}")
    return Transformer(layers, width, heads, classes)
