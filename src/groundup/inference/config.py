"""How tokens are chosen: the settings of one request (pydantic only, so that `--help` needs no torch)."""

from __future__ import annotations

from pydantic import Field, field_validator

from groundup.core.config import Config


class Sampling(Config):
    """Settings of one request; the names and the order of the filters are those of Hugging Face's `generate`."""

    max_new_tokens: int = Field(default=256, ge=1, description="most tokens to generate")
    temperature: float = Field(
        default=1.0, ge=0.0, allow_inf_nan=False, description="divides the logits; 0 always takes the likeliest token"
    )
    top_k: int = Field(default=0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(
        default=1.0, gt=0.0, le=1.0, description="keep the smallest set of tokens with this probability"
    )
    min_p: float = Field(
        default=0.0, ge=0.0, le=1.0, description="keep tokens at least this share as likely as the likeliest"
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0.0, allow_inf_nan=False, description="above 1 makes tokens that already occurred less likely"
    )
    stop: tuple[str, ...] = Field(
        default=(), description="a text that ends the answer and is not part of it; may be given several times"
    )
    seed: int = Field(default=0, ge=0, description="the same seed gives the same tokens, alone or in any batch")

    @field_validator("stop")
    @classmethod
    def _stop_is_text(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError(f"stop {list(stop)!r} holds an empty text, which would end every answer at once")
        return stop
