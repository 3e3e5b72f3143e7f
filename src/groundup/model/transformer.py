"""The transformer: built from a config, one forward for every use, logits apart from it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.core.errors import ModelError
from groundup.core.seeds import seed_for
from groundup.model.cache import Cache, StackCache
from groundup.model.config import TransformerConfig
from groundup.model.ops.linear import linear
from groundup.model.parts import PARTS, Builder, Context, Embedding, Linear, ResidualLinear, count_positions


class Transformer(nn.Module):
    """A stack of layers: ids or embeddings in, hidden vectors out; `logits` turns those into scores of tokens.

    Use `build` to make one with its starting values. Where the head is the token embedding (tied), or there is none,
    `head` is None.
    """

    def __init__(self, config: TransformerConfig, builder: Builder) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions: Embedding | None = None
        if config.positions is not None:
            self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_types: Embedding | None = None
        if config.type_vocab_size:
            self.embed_types = Embedding(config.type_vocab_size, config.hidden_size)
        self.embed_norm: nn.Module | None = None
        if config.embedding_norm is not None:
            self.embed_norm = builder(config.embedding_norm, config.hidden_size)
        self.layers = nn.ModuleList(builder(layer, config.hidden_size) for layer in config.layers())
        self.final_norm: nn.Module | None = None
        if config.final_norm is not None:
            self.final_norm = builder(config.final_norm, config.hidden_size)
        self.head: Linear | None = None
        if config.has_head and not config.tie_word_embeddings:
            self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self._has_cross_attention = any(layer.cross_attention is not None for layer in config.layers())

    def forward(
        self,
        inputs: Int[Tensor, "B T"] | Float[Tensor, "B T D"],
        *,
        positions: Int[Tensor, "#B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        mask: Bool[Tensor, "B S"] | None = None,
        memory: Float[Tensor, "B M E"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the final hidden vector of each token.

        Args:
            inputs: token ids, or embeddings in their place.
            positions: position of each token; by default the number of unmasked tokens of the same text before it
                (cached ones included), starting at 0 in each segment.
            segments: document number of each token of a packed row; tokens see only their own document.
            mask: False where a token is padding, on either side. With a cache it covers the new tokens, or all of
                them (S = T, or S = cache.length + T).
            memory: what cross-attention reads.
            cache: state of earlier tokens; the new ones are added to it.

        Raises:
            ModelError: when the input is too long, an id is outside the vocabulary, or arguments contradict.
        """
        self._check_arguments(inputs, positions, segments, memory, cache)
        batch_size, num_tokens = inputs.shape[:2]
        length = 0 if cache is None else cache.length
        cached = None if cache is None else cache.mask
        mask = join_masks(mask, cached, length, (batch_size, num_tokens), inputs.device)
        if positions is None:
            positions = count_positions(
                (batch_size, num_tokens), length=length, mask=mask, segments=segments, device=inputs.device
            )
        x = self._embed(inputs, positions)
        context = Context(positions, length=length, mask=mask, segments=segments, memory=memory)
        for index, layer in enumerate(self.layers):
            x = layer(x, context, None if cache is None else cache.layers[index])
        if cache is not None:
            cache.update(num_tokens, mask)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Scores of every token after `hidden`, any slice of a forward's result; in at least float32.

        Raises:
            ModelError: for an encoder of texts, which has no head.
        """
        if not self.config.has_head:
            raise ModelError("this model encodes texts and predicts no tokens (has_head is false): use `pool`")
        scores = linear(hidden, self.embed.weight) if self.head is None else self.head(hidden)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        cap = self.config.final_logit_softcapping
        result: Tensor = scores if cap is None else cap * torch.tanh(scores / cap)
        return result

    def pool(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B D"]:
        """One vector for each text, as the config's `pooling` says.

        Args:
            hidden: a forward's result.
            mask: False where a token is padding.

        Raises:
            ModelError: when the config says no pooling.
        """
        pooling = self.config.pooling
        if pooling is None:
            raise ModelError("this model has no pooling: it gives one vector for each token, not for a text")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if pooling.kind == "mean":
            weights = mask.to(hidden.dtype)[..., None]
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        else:
            steps = torch.arange(mask.shape[1], device=mask.device)
            places = steps if pooling.kind == "last" else -steps
            chosen = places.masked_fill(~mask, -mask.shape[1]).argmax(dim=1)
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), chosen]
        return F.normalize(pooled, dim=-1) if pooling.normalize else pooled

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StackCache:
        """An empty cache for `batch_size` rows of up to `max_length` tokens (the model's longest by default)."""
        longest = max_length or self.config.max_position_embeddings
        return StackCache([layer.attn.new_cache(batch_size, longest) for layer in self.layers], batch_size)  # type: ignore[union-attr, operator]

    def _embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        try:
            x: Tensor = inputs
            if not inputs.is_floating_point():
                x = self.embed(inputs)
                if self.config.embedding_multiplier is not None:
                    # Rounded to the type of the weights first, as the models were trained with.
                    x = x * torch.tensor(self.config.embedding_multiplier, dtype=x.dtype, device=x.device)
            if self.embed_types is not None:
                x = x + self.embed_types.weight[0]
            if self.embed_positions is not None:
                x = x + self.embed_positions(positions)
            return x if self.embed_norm is None else self.embed_norm(x)
        except IndexError:
            for name, ids, size in (
                ("a token id", inputs, self.config.vocab_size),
                ("a position", positions, self.config.max_position_embeddings),
            ):
                low, high = int(ids.min()), int(ids.max())
                if not ids.is_floating_point() and (low < 0 or high >= size):
                    wrong = low if low < 0 else high
                    raise ModelError(f"{name} is {wrong}, this model has 0 to {size - 1}") from None
            raise

    def _check_arguments(
        self,
        inputs: Tensor,
        positions: Tensor | None,
        segments: Tensor | None,
        memory: Tensor | None,
        cache: Cache | None,
    ) -> None:
        length = 0 if cache is None else cache.length
        end = length + inputs.shape[1]
        # A row of packed documents, or one with its own positions, may be longer than one text.
        if segments is None and positions is None and end > self.config.max_position_embeddings:
            cached = f" ({length} in the cache and {inputs.shape[1]} new)" if length else ""
            raise ModelError(
                f"the input is {end} tokens long{cached}, this model takes {self.config.max_position_embeddings} "
                "(max_position_embeddings): shorten it or drop its beginning"
            )
        if memory is not None and not self._has_cross_attention:
            raise ModelError("memory was given, but no layer of this model has cross_attention")
        if cache is None:
            return
        if segments is not None:
            raise ModelError("segments are for whole packed rows; with a cache, run each document as its own row")
        for layer in cache.layers:
            if layer.length != length:
                # An interrupted forward has filled some layers further than others.
                cache.truncate(length)
                break


def join_masks(
    mask: Tensor | None, cached: Tensor | None, length: int, shape: tuple[int, int], device: torch.device
) -> Tensor | None:
    """The mask over cached and new tokens, None when nothing is padding.

    Args:
        mask: over the new tokens or over all of them, or None.
        cached: the mask over what is in the cache, or None.
        length: tokens in the cache.
        shape: rows and new tokens.
        device: of the result.

    Raises:
        ModelError: when the mask covers another number of tokens.
    """
    batch_size, num_tokens = shape
    if mask is None:
        if cached is None:
            return None
        mask = torch.ones(batch_size, num_tokens, dtype=torch.bool, device=device)
    if mask.shape[1] == length + num_tokens:
        return mask
    if mask.shape[1] != num_tokens:
        raise ModelError(
            f"the mask covers {mask.shape[1]} tokens: give {num_tokens} (the new ones)"
            + (f" or {length + num_tokens} (with those in the cache)" if length else "")
        )
    if cached is None:
        cached = torch.ones(batch_size, length, dtype=torch.bool, device=device)
    return torch.cat((cached, mask), dim=1)


def build(config: TransformerConfig, *, seed: int = 0, trust_code: bool = False) -> Transformer:
    """Make a model with its starting values, on the CPU in float32.

    Args:
        config: what to build.
        seed: the same seed gives the same values, parameter by parameter.
        trust_code: allow parts of kind `file`.

    Raises:
        ModelError: when a part of kind `file` is refused or fails a check.
    """
    model = assemble(config, seed=seed, trust_code=trust_code)
    initialize(model, seed)
    return model


def assemble(config: TransformerConfig, *, seed: int = 0, trust_code: bool = False) -> Transformer:
    """Make the modules and leave the memory of linear maps and embeddings unset, for weights from a file."""
    return Transformer(config, Builder(PARTS, seed, trust_code))


def initialize(model: Transformer, seed: int) -> None:
    """Set the starting values: normal with std initializer_range; biases zero; norms one.

    Projections back into the residual stream get std / sqrt(N), N the number of residual additions, so that the
    stream's variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3). Each parameter has a
    generator of its own, so that adding a layer leaves the others' values as they were, up to that factor.
    """
    std = model.config.initializer_range
    additions = sum(2 + (layer.cross_attention is not None) for layer in model.config.layers())
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, Linear | Embedding):
                continue
            scale = std / math.sqrt(additions) if isinstance(module, ResidualLinear) else std
            generator = torch.Generator().manual_seed(seed_for(seed, "initialize", name))
            module.weight.normal_(0.0, scale, generator=generator)
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.zero_()
