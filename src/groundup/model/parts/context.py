"""What one forward knows about its tokens: computed once, read by every layer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.model.config import DynamicScaling, RotaryConfig
from groundup.model.ops.attention import visible_keys
from groundup.model.ops.rotary import rotary_tables


class Context:
    """Positions, padding, documents and memory of the tokens of one forward.

    Attributes:
        positions: Int[B or 1, T], position of each new token in its text.
        length: tokens in the cache before this call; keys are those and the new ones, S = length + T.
        mask: Bool[B, S], False where a token is padding; None when nothing is.
        segments: Int[B, T], the document of each token, which sees only its own; None when there is one.
        memory: Float[B, M, E], what cross-attention reads.
    """

    def __init__(
        self,
        positions: Int[Tensor, "B_or_1 T"],
        *,
        length: int = 0,
        mask: Bool[Tensor, "B S"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        memory: Float[Tensor, "B M E"] | None = None,
    ) -> None:
        self.positions, self.length, self.mask, self.segments, self.memory = positions, length, mask, segments, memory
        self._visible: dict[tuple[bool, int | None, int], Tensor] = {}
        self._rotary: dict[tuple[str, int, torch.dtype], tuple[Tensor, Tensor]] = {}

    @property
    def num_tokens(self) -> int:
        """New tokens per row."""
        return self.positions.shape[1]

    @property
    def token_mask(self) -> Bool[Tensor, "B T"] | None:
        """The part of the mask that covers the new tokens."""
        return None if self.mask is None else self.mask[:, self.length :]

    def visibility(
        self, is_causal: bool, window: int | None = None, num_sink_tokens: int = 0
    ) -> tuple[Bool[Tensor, "B_or_1 1 T S"] | None, bool]:
        """Which keys the new tokens may see, as `(mask, is_causal)` for the attention operations.

        No mask is built in the two cases that matter for speed: whole sequences, and one token after a cache.

        Args:
            is_causal: a token sees itself and what came before it.
            window: of which it sees so many, itself included.
            num_sink_tokens: first tokens of a text that stay visible beyond the window.
        """
        if window is not None and self.length + self.num_tokens <= window:
            window = None
        if self.mask is None and self.segments is None and window is None:
            if self.length == 0:
                return None, is_causal
            if self.num_tokens == 1 or not is_causal:
                return None, False
        return self.visible(is_causal, window, num_sink_tokens), False

    def visible(
        self, is_causal: bool, window: int | None = None, num_sink_tokens: int = 0
    ) -> Bool[Tensor, "B_or_1 1 T S"]:
        """True where a new token may see a key; built once for all layers that ask alike."""
        asked = (is_causal, window, num_sink_tokens if window is not None else 0)
        if asked not in self._visible:
            self._visible[asked] = visible_keys(
                self.num_tokens,
                self.length + self.num_tokens,
                is_causal=is_causal,
                window=window,
                sinks=self._first_tokens(asked[2]) if asked[2] else None,
                mask=self.mask,
                segments=self.segments,
                device=self.positions.device,
            )
        return self._visible[asked]

    def _first_tokens(self, count: int) -> Bool[Tensor, "B_or_1 S"]:
        """True at the first `count` tokens of each text among all keys; padding before a text is none of it."""
        end = self.length + self.num_tokens
        shape = (1, end) if self.segments is None else (self.segments.shape[0], end)
        places = count_positions(shape, length=0, mask=self.mask, segments=self.segments, device=self.positions.device)
        return places < count

    def rotary(
        self, head_dim: int, rotary: RotaryConfig, dtype: torch.dtype, name: str
    ) -> tuple[Float[Tensor, "B_or_1 T half"], Float[Tensor, "B_or_1 T half"]]:
        """The rotary tables of these positions, computed once for all layers that ask alike.

        Args:
            head_dim: size of a head.
            rotary: settings.
            dtype: of the tables.
            name: equal for equal settings (their JSON); with the settings themselves as a key, torch.compile would
                break the graph in every layer.
        """
        key = (name, head_dim, dtype)
        if key not in self._rotary:
            if self.segments is None or not isinstance(rotary.scaling, DynamicScaling):
                self._rotary[key] = rotary_tables(self.positions, head_dim, rotary, dtype)
            else:
                positions = self.positions.expand(self.segments.shape)
                lengths = _segment_ends(self.segments, positions) + 1
                self._rotary[key] = rotary_tables(positions, head_dim, rotary, dtype, lengths)
        return self._rotary[key]


def count_positions(
    batch_shape: tuple[int, int],
    *,
    length: int,
    mask: Bool[Tensor, "B S"] | None,
    segments: Int[Tensor, "B T"] | None,
    device: torch.device,
) -> Int[Tensor, "B_or_1 T"]:
    """The default positions: tokens of the same text before each token, padding left out, starting anew per segment.

    Args:
        batch_shape: B and T of the new tokens.
        length: tokens in the cache.
        mask: False where a token, cached or new, is padding.
        segments: document of each new token.
    """
    steps = torch.arange(batch_shape[1], device=device)
    if mask is not None:
        positions = (mask.cumsum(1)[:, length:] - 1).clamp_(min=0)
        return positions if segments is None else positions - _segment_starts(segments, positions)
    if segments is not None:
        positions = steps.expand(batch_shape)
        return positions - _segment_starts(segments, positions)
    return (steps + length)[None]


def _segment_starts(segments: Tensor, positions: Tensor) -> Tensor:
    """The position at which each token's segment began."""
    return torch.where(_starts_segment(segments), positions, 0).cummax(dim=1).values


def _segment_ends(segments: Tensor, positions: Tensor) -> Tensor:
    """The highest position in each token's segment."""
    numbers = _starts_segment(segments).cumsum(dim=1) - 1
    return torch.zeros_like(positions).scatter_reduce(1, numbers, positions, "amax").gather(1, numbers)


def _starts_segment(segments: Tensor) -> Tensor:
    is_first = torch.ones_like(segments, dtype=torch.bool)
    is_first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return is_first
