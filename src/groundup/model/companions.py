"""What a model has beside its weights: its composition, tokenizer, chat template and generation settings.

For GGUF files and presets nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.model.config import TransformerConfig
from groundup.model.presets import PRESETS, preset
from groundup.model.sources import locate_model
from groundup.model.weights.gguf_contents import read_gguf_config
from groundup.model.weights.gguf_read import GgufFile
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate
from groundup.tokenizer.gguf_vocabulary import chat_template_from_gguf, tokenizer_from_gguf


def read_config(source: Path | str) -> TransformerConfig:
    """The composition of what `load_model` would load, without its weights.

    Raises:
        ModelError: when nothing goes by that name, or it describes no model known here.
    """
    if is_preset(source):
        return preset(str(source))
    path = locate_model(source)
    if path.is_dir():
        from groundup.model.directory import read_model_config

        return read_model_config(path)
    return read_gguf_config(path)


def gguf_companions(file: GgufFile, config: TransformerConfig) -> tuple[Tokenizer, ChatTemplate | None, dict[str, Any]]:
    """What an open file holds beside its weights: tokenizer, chat template, generation settings.

    Raises:
        TokenizerError: when its tokenizer is not known here.
    """
    generation = {"eos_token_id": list(config.eos_token_ids())} if config.eos_token_ids() else {}
    return tokenizer_from_gguf(file.metadata), chat_template_from_gguf(file.metadata), generation


def is_preset(source: Path | str) -> bool:
    """Whether `load_model` would make an untrained model of a family."""
    return str(source) in PRESETS and not Path(source).exists()
