"""Models made of modules: their protocol, and how generation drives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from groundup.inference.contracts import Floats, Ids, LanguageModel, Mask


@runtime_checkable
class TensorModel(LanguageModel, Protocol):
    """A causal model with the one forward of the house (`groundup.model.transformer.Transformer` is one)."""

    training: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`(inputs, *, positions, segments, mask, memory, cache) -> hidden`."""

    def logits(self, hidden: Tensor) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@contextmanager
def evaluation_mode(model: TensorModel) -> Iterator[None]:
    """Inside, dropout is off and no gradients are kept; afterwards every module has the mode it had.

    It is entered around each forward pass, never across a `yield`: a suspended generator must not leave its caller
    without gradients.
    """
    # no_grad and not inference_mode: a table that a module fills during generation must still serve in training.
    with torch.no_grad():
        if not model.training:
            yield
            return
        before = [(module, module.training) for module in model.modules()]
        try:
            for module, _ in before:
                module.training = False
            yield
        finally:
            for module, training in before:
                module.training = training


class TensorDecoder:
    """Modules as a `groundup.inference.contracts.Decoder`; they run in evaluation mode without gradients."""

    def __init__(self, model: TensorModel) -> None:
        self.model = model
        self._device = next(iter(model.parameters())).device

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def new_cache(self, batch_size: int, max_length: int | None = None) -> Any:
        """The model's."""
        return self.model.new_cache(batch_size, max_length)

    def read(self, ids: Ids, **options: Any) -> None:
        """Take tokens into the cache."""
        with evaluation_mode(self.model):
            self._hidden(ids, **options)

    def next_logits(self, ids: Ids, **options: Any) -> Floats:
        """Scores of every token after the last column, (B, V)."""
        with evaluation_mode(self.model):
            logits = self.model.logits(self._hidden(ids, **options)[:, -1:])[:, 0]
            result: Floats = logits.float().cpu().numpy()
        return result

    def _hidden(
        self, ids: Ids, *, mask: Mask | None = None, positions: Ids | None = None, cache: Any | None = None
    ) -> Tensor:
        options: dict[str, Any] = {} if cache is None else {"cache": cache}
        for name, array in (("mask", mask), ("positions", positions)):
            if array is not None:
                options[name] = torch.from_numpy(array).to(self._device)
        hidden: Tensor = self.model(torch.from_numpy(ids).to(self._device), **options)
        return hidden


def as_tensors(model: LanguageModel) -> Any:
    """A model that is called with tensors: modules as they are, the compiled step through `FastTensors`."""
    if isinstance(model, TensorModel):
        return model
    from groundup.inference.fast import FastModel  # numba, which not every machine has
    from groundup.inference.fast_tensors import FastTensors

    assert isinstance(model, FastModel)
    return FastTensors(model)
