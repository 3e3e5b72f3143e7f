"""The settings of a training run that change its result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from groundup.core.config import Config
from groundup.core.errors import ConfigError


class TrainConfig(Config):
    """Everything that decides the weights, apart from the model, the data and the execution plan.

    The number of steps is fixed before the first one: a run that stopped by the clock could not be repeated.
    """

    num_steps: int = Field(1000, ge=1, description="optimizer updates")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="last learning rate over the peak")
    warmup_steps: int = Field(0, ge=0, description="updates over which the learning rate rises from 0")
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine", description="cosine, or warm-up-stable-decay: constant, then a short decay"
    )
    decay_fraction: float = Field(0.2, gt=0, le=1, description="share of the updates in the decay of wsd")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="adamw, or muon: matrices inside of layers by Muon, everything else by AdamW"
    )
    matrix_learning_rate: float | None = Field(
        None, gt=0, description="muon: peak learning rate of the matrices (none: learning_rate)"
    )
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Muon: memory of the mean gradient")
    muon_iterations: int = Field(
        5, ge=1, le=20, description="Muon: steps towards an orthogonal update; 3 are cheaper and often as good"
    )
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of matrices (vectors have none)")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: memory of the mean gradient")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW: memory of the squared gradient")
    epsilon: float = Field(1e-8, gt=0, description="AdamW: smallest denominator")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients longer than this are scaled down to it; 0 = never")
    seed: int = Field(0, ge=0, description="of everything random inside the steps (dropout)")
    evaluate_every: int = Field(0, ge=0, description="updates between evaluations; 0 = only after the last one")
    checkpoint_every: int = Field(
        200, ge=0, description="updates between checkpoints; 0 = only the best, the last, and when stopped"
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="evaluations without improvement after which training ends; 0 = never"
    )
    max_nonfinite_steps: int = Field(
        5, ge=1, description="updates in a row with a non-finite gradient that are skipped before training stops"
    )

    @model_validator(mode="after")
    def _check_steps(self) -> TrainConfig:
        if self.warmup_steps >= self.num_steps and self.warmup_steps > 0:
            raise ConfigError(
                f"warmup_steps ({self.warmup_steps}) must be smaller than num_steps ({self.num_steps}), "
                "or the peak learning rate is never reached"
            )
        if self.matrix_learning_rate is not None and self.optimizer != "muon":
            raise ConfigError(
                f"matrix_learning_rate ({self.matrix_learning_rate:g}) is for optimizer 'muon', this is {self.optimizer!r}"
            )
        if self.early_stopping_patience and not self.evaluate_every:
            raise ConfigError(
                f"early_stopping_patience ({self.early_stopping_patience}) needs evaluate_every, which is 0"
            )
        return self
