"""What a model has beside its weights: its composition, tokenizer, chat template and generation settings.

Imports no torch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from groundup.core.errors import ModelError
from groundup.core.files import read_json
from groundup.model.config import TransformerConfig
from groundup.model.hf_config import from_hf
from groundup.model.presets import PRESETS, preset
from groundup.model.sentence import read_pooling
from groundup.model.sources import locate_model
from groundup.model.weights.gguf_contents import read_gguf_config
from groundup.model.weights.gguf_read import GgufFile
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate, load_chat_template
from groundup.tokenizer.gguf_vocabulary import chat_template_from_gguf, tokenizer_from_gguf
from groundup.tokenizer.load import load_tokenizer

log = logging.getLogger("groundup.model.companions")

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"


def read_config(source: Path | str) -> TransformerConfig:
    """The composition of what `load_model` would load, without its weights.

    Raises:
        ModelError: when nothing goes by that name, or it describes no model known here.
    """
    if is_preset(source):
        return preset(str(source))
    path = locate_model(source)
    return read_model_config(path) if path.is_dir() else read_gguf_config(path)


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


def directory_companions(
    folder: Path, config: TransformerConfig
) -> tuple[Tokenizer, ChatTemplate | None, dict[str, Any]]:
    """What a model directory holds beside its weights: tokenizer, chat template, generation settings.

    Raises:
        ModelError: when a file is damaged, or the tokenizer has more ids than the model.
        TokenizerError: when its tokenizer is not known here.
    """
    tokenizer = load_tokenizer(folder, vocab_size=config.vocab_size)
    check_vocabulary(tokenizer, config, folder)
    return tokenizer, load_chat_template(folder), _read_generation(folder / GENERATION_FILE, config)


def read_model_config(folder: Path) -> TransformerConfig:
    """Read the `config.json` of a model directory.

    Raises:
        ModelError: when there is none, or it does not describe a model known here.
    """
    if not folder.is_dir():
        old = old_version(folder)
        hint = f"; {old} holds the version before an interrupted save: rename it" if old.is_dir() else ""
        raise ModelError(f"there is no model directory {folder}{hint}")
    path = folder / CONFIG_FILE
    values = read_json(path, ModelError)
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {type(values).__name__}, not an object")
    try:
        return from_hf(values, pooling=read_pooling(folder))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def read_optional(path: Path) -> dict[str, Any]:
    """A file with a JSON object; empty where there is no file."""
    values = read_json(path, ModelError) if path.exists() else {}
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a JSON {type(values).__name__}, not an object")
    return values


def _read_generation(path: Path, config: TransformerConfig) -> dict[str, Any]:
    values = read_optional(path)
    named = values.get("eos_token_id")
    if named is None:
        ends = list(config.eos_token_ids())
        return {**values, "eos_token_id": ends} if ends else values
    ids = named if isinstance(named, list) else [named]
    if any(isinstance(id, bool) or not isinstance(id, int) for id in ids):
        raise ModelError(f"{path}: eos_token_id is {named!r}: it is the id of a token, or a list of them")
    known = [id for id in ids if 0 <= id < config.vocab_size]
    if known != ids:
        log.warning("%s: eos_token_id %r is outside of the %d tokens and was left out", path, named, config.vocab_size)
    return {**values, "eos_token_id": known}


def check_vocabulary(tokenizer: Tokenizer, config: TransformerConfig, folder: Path) -> None:
    """Raise ModelError where a tokenizer has more ids than its model."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size} (vocab_size): "
            "they do not belong together"
        )


def old_version(folder: Path) -> Path:
    """Where a save that was interrupted leaves the directory that it was to replace."""
    return folder.with_name(f".{folder.name}.old")
