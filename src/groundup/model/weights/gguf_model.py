"""Models in GGUF files: a file read as a model, and a model written as a file that llama.cpp loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.core.execution import torch_dtype
from groundup.core.progress import Progress
from groundup.model.config import TransformerConfig
from groundup.model.ops.blocks_quantize import quantize
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.gguf_config import config_to_gguf
from groundup.model.weights.gguf_contents import check_gguf_tensors, gguf_config, gguf_values
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_mix import has_shared_values, mix_named, tensor_format
from groundup.model.weights.gguf_names import from_gguf, gguf_slots, to_gguf
from groundup.model.weights.gguf_read import GgufFile
from groundup.model.weights.gguf_write import TensorSource, write_gguf
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.gguf_vocabulary import gguf_from_tokenizer

# Values quantised at once: bounds the memory of a tensor's temporaries.
_PIECE = 1 << 22
_UNUSED = 5  # llama.cpp's kind of token that stands for nothing


def load_gguf_weights(file: GgufFile, *, dtype: str = "float32", on_progress: Progress | None = None) -> Transformer:
    """The model in an open file, its blocks turned into plain numbers.

    Args:
        file: an open file.
        dtype: of the result.
        on_progress: called with (tensors read, all tensors).

    Raises:
        ModelError: when the file holds no model known here, or a tensor is missing, unexpected or of another shape.
    """
    config = gguf_config(file)
    architecture = file.metadata["general.architecture"]
    where, _ = check_gguf_tensors(file, config)
    with torch.device("meta"):
        model = assemble(config)
    loaded: dict[str, Tensor] = {}
    current: tuple[str, Tensor] | None = None
    for done, (name, slot) in enumerate(sorted(where.items(), key=lambda item: item[1].theirs)):
        if on_progress is not None:
            on_progress(done, len(where))
        if current is None or current[0] != slot.theirs:
            current = (slot.theirs, torch.from_numpy(gguf_values(file, slot.theirs)))
        ours = from_gguf(architecture, name, slot.take(current[1]), config)
        loaded[name] = ours.to(torch_dtype(dtype), copy=slot.parts > 1).contiguous()
    model.load_state_dict(loaded, assign=True)
    return model


def save_gguf(
    path: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    type: str,
    chat_template: str | None = None,
    end_of_turn_id: int | None = None,
    name: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, str]:
    """Write a model as one GGUF file, whole or not at all.

    Args:
        path: the file.
        model: the weights, on any device and in any dtype.
        tokenizer: the model's.
        type: a mix of `gguf_mix.MIXES`, such as `Q8_0` or `Q4_K_M`.
        chat_template: Jinja source.
        end_of_turn_id: the token that ends an answer where that is not the tokenizer's eos (`turn_end_id`).
        name: for `general.name`; the file's where not given.
        on_progress: called with (tensors written, all tensors).

    Returns:
        the block format of each tensor of the file.

    Raises:
        ModelError: for a model that llama.cpp has no architecture for, or weights that are not finite.
        TokenizerError: for a tokenizer that llama.cpp has no kind for.
    """
    mix, config = mix_named(type), model.config
    architecture, metadata, factors = config_to_gguf(config)
    metadata["general.name"] = Typed("string", name or path.stem)
    metadata["general.file_type"] = Typed("u32", mix.file_type)
    metadata["general.quantization_version"] = Typed("u32", 2)
    metadata |= _vocabulary(tokenizer, chat_template, config)
    if end_of_turn_id is not None and end_of_turn_id != tokenizer.eos_id:
        metadata["tokenizer.ggml.eot_token_id"] = Typed("u32", end_of_turn_id)
    state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    if architecture == "olmo2" and config.tie_word_embeddings:
        state["head.weight"] = state["embed.weight"]  # llama.cpp's olmo2 knows no tied head
    stored = _stored_names(architecture, state)
    has_output = "output.weight" in stored
    heads = (metadata.get(f"{architecture}.attention.{key}") for key in ("head_count", "head_count_kv"))
    shares_values = has_shared_values(
        architecture, config.num_hidden_layers, *(0 if head is None else int(head.value) for head in heads)
    )
    formats: dict[str, str] = {}
    sources: list[TensorSource] = []
    if factors is not None:
        formats["rope_freqs.weight"] = "F32"
        sources.append(TensorSource("rope_freqs.weight", factors.shape, "F32", lambda: factors))
    for theirs, (shape, members) in stored.items():
        formats[theirs] = tensor_format(
            mix,
            theirs,
            shape,
            num_layers=config.num_hidden_layers,
            has_output=has_output,
            shares_values=shares_values,
        )
        read = _reader(architecture, config, {own: state[own] for own in members}, formats[theirs])
        sources.append(TensorSource(theirs, shape, formats[theirs], _counted(read, len(sources), on_progress, stored)))
    write_gguf(path, metadata, sources)
    if on_progress is not None:
        on_progress(len(stored), len(stored))
    return formats


def _stored_names(architecture: str, state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    """Tensor of the file -> its shape and ours that go into it, layer by layer."""
    members: dict[str, list[tuple[int, str]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, slot in gguf_slots(architecture, list(state)).items():
        members.setdefault(slot.theirs, []).append((slot.part, name))
        shapes[slot.theirs] = slot.stored_shape(tuple(state[name].shape))
    return {theirs: (shapes[theirs], [name for _, name in sorted(parts)]) for theirs, parts in members.items()}


def _reader(
    architecture: str, config: TransformerConfig, members: Mapping[str, Tensor], format: str
) -> Callable[[], Iterator[NDArray[Any]]]:
    def read() -> Iterator[NDArray[Any]]:
        parts = [to_gguf(architecture, name, tensor.float().cpu(), config).numpy() for name, tensor in members.items()]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        rows = values.reshape(-1, values.shape[-1])
        step = max(1, _PIECE // rows.shape[1])
        for start in range(0, len(rows), step):
            try:
                yield quantize(np.ascontiguousarray(rows[start : start + step]), format)
            except ModelError as error:
                raise ModelError(f"{', '.join(members)}: {error}") from None

    return read


def _counted(
    read: Callable[[], Iterator[NDArray[Any]]], index: int, on_progress: Progress | None, stored: Mapping[str, Any]
) -> Callable[[], Iterator[NDArray[Any]]]:
    def counted() -> Iterator[NDArray[Any]]:
        if on_progress is not None:
            on_progress(min(index, len(stored)), len(stored))
        return read()

    return counted


def _vocabulary(tokenizer: Tokenizer, chat_template: str | None, config: TransformerConfig) -> dict[str, Typed]:
    """The tokenizer's metadata, filled up with unused tokens to the model's vocabulary, which llama.cpp wants alike."""
    metadata = {key: Typed(*value) for key, value in gguf_from_tokenizer(tokenizer, chat_template).items()}
    tokens = metadata["tokenizer.ggml.tokens"].value
    missing = config.vocab_size - len(tokens)
    if missing > 0:
        tokens = [*tokens, *(f"[PAD{len(tokens) + index}]" for index in range(missing))]
        metadata["tokenizer.ggml.tokens"] = Typed("[string]", tokens)
        kinds = np.asarray(metadata["tokenizer.ggml.token_type"].value)
        metadata["tokenizer.ggml.token_type"] = Typed("[i32]", np.append(kinds, np.full(missing, _UNUSED, kinds.dtype)))
        if "tokenizer.ggml.scores" in metadata:
            scores = np.asarray(metadata["tokenizer.ggml.scores"].value, dtype=np.float32)
            lowest = np.full(missing, -1e4, np.float32)
            metadata["tokenizer.ggml.scores"] = Typed("[f32]", np.append(scores, lowest))
    return metadata
