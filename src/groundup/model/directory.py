"""The model directory: the one hand-over between stages, in Hugging Face's layout."""

from __future__ import annotations

import logging
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import groundup
from groundup.core.errors import ModelError
from groundup.core.execution import torch_dtype
from groundup.core.files import (
    explain_write_error,
    sha256_file,
    sha256_json,
    sync_folder,
    write_json,
    write_text,
)
from groundup.core.progress import Progress
from groundup.model.card import default_card
from groundup.model.companions import (
    CONFIG_FILE,
    GENERATION_FILE,
    check_vocabulary,
    directory_companions,
    old_version,
    read_model_config,
    read_optional,
)
from groundup.model.config import FilePartConfig, LayerConfig, TransformerConfig
from groundup.model.hf_config import to_hf
from groundup.model.ops.integers import IntegerFormat
from groundup.model.sentence import write_pooling
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.compressed import SETTINGS, write_settings
from groundup.model.weights.files import WEIGHTS_FILE, load_weights, save_weights, unrounded_maps
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate

log = logging.getLogger("groundup.model.directory")

LINEAGE_FILE = "lineage.json"
TOKENIZER_CONFIG_FILE, CARD_FILE, TEMPLATE_FILE = "tokenizer_config.json", "README.md", "chat_template.jinja"
# A folder with other things in it is somebody's, and is not replaced.
_OURS = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "generation_config.json",
    "README.md",
    "lineage.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "part_*.py",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*",
    ".gitattributes",
]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a model directory holds.

    Attributes:
        model: with its weights, in evaluation mode.
        tokenizer: its tokenizer.
        chat_template: how conversations are written, None for a model that was not tuned for them.
        generation: content of generation_config.json, with the config's `eos_token_id` where it names none.
        lineage: content of lineage.json, empty for a directory that others made.
        folder: where it was read.
    """

    model: Transformer
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation: dict[str, Any]
    lineage: dict[str, Any]
    folder: Path


def save_model_directory(
    folder: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    chat_template: str | None,
    lineage: dict[str, Any],
    generation: dict[str, Any] | None = None,
    card: str | None = None,
    rounded: IntegerFormat | None = None,
) -> None:
    """Write a model directory, whole or not at all; an older one at `folder` is replaced.

    Everything is written to a folder beside it, which then takes its name, so a crash leaves the old directory, the
    new one, or none, never a mixture.

    Args:
        folder: where; absent, empty, or a model directory.
        model: its weights are stored in the dtype they have.
        tokenizer: at most the model's vocab_size ids.
        chat_template: Jinja source, or None.
        lineage: parent, data hash, recipe, seed; versions and the weights' hash are added.
        generation: content of generation_config.json beyond the model's bos, eos and pad ids.
        card: README.md; a short one is written where not given.
        rounded: the weights of the linear maps in the layers are rounded so, as in `save_weights`.

    Raises:
        ModelError: when the tokenizer does not fit, `folder` holds other files, or the weights cannot be rounded.
        DataError: when the disk is full or not writable.
    """
    check_vocabulary(tokenizer, model.config, folder)
    check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        _recover(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        dtype = "bfloat16" if rounded is not None else str(model.embed.weight.dtype).removeprefix("torch.")
        config = _with_own_files(model.config, temporary)
        written = save_weights(temporary / WEIGHTS_FILE, model, rounded=rounded)
        tokenizer.save(temporary, chat_template=chat_template, max_length=config.max_position_embeddings)
        values = to_hf(config, dtype=dtype)
        if rounded is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            values[SETTINGS] = write_settings(rounded, unrounded_maps(values["model_type"], shapes, rounded))
        ids = {key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        facts = {**lineage, "versions": _versions() | lineage.get("versions", {})}
        hashes = {file.name: sha256_file(file) for file in written}
        facts["weights_sha256"] = hashes.get(WEIGHTS_FILE) or sha256_json(hashes)
        write_json(temporary / GENERATION_FILE, ids | (generation or {}))
        write_json(temporary / LINEAGE_FILE, facts)
        text = (
            default_card(folder.name, config, facts, has_template=chat_template is not None) if card is None else card
        )
        write_text(temporary / CARD_FILE, text)
        if config.pooling is not None and values["model_type"] == "bert":
            write_pooling(temporary, config.pooling, config.hidden_size, config.max_position_embeddings)
        write_json(temporary / CONFIG_FILE, values)
        _swap(temporary, folder)
    except OSError as error:
        raise explain_write_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_model_directory(
    folder: Path | str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_code: bool = False,
    on_progress: Progress | None = None,
) -> LoadedModel:
    """Read a model directory, ours or one that transformers wrote.

    Args:
        folder: the directory.
        device: where the weights go.
        dtype: `float32`, `bfloat16`, `float16` or `float64`, whatever is stored.
        trust_code: allow parts of kind `file`, whose Python file in the directory is then run.
        on_progress: called with (tensors read, all tensors).

    Raises:
        ModelError: when something is missing, damaged, unknown, or does not fit, naming the file.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    with torch.device("meta"):  # memory is made when the weights are read, in their dtype and on their device
        model = assemble(_with_paths_under(config, folder), trust_code=trust_code).to(torch_dtype(dtype))
    load_weights(folder, model, device=device, on_progress=on_progress)
    tokenizer, template, generation = directory_companions(folder, config)
    return LoadedModel(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        chat_template=template,
        generation=generation,
        lineage=read_optional(folder / LINEAGE_FILE),
        folder=folder,
    )


def check_replaceable(folder: Path) -> None:
    """Raise ModelError where `save_model_directory` would refuse to write: a file, or a folder with other things."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file: choose another name for the model directory")
    foreign = sorted(entry.name for entry in folder.iterdir() if not any(entry.match(pattern) for pattern in _OURS))
    if foreign:
        raise ModelError(
            f"{folder} holds what is not part of a model directory ({', '.join(foreign[:5])}): "
            "choose another folder, or move that away"
        )


def _with_own_files(config: TransformerConfig, folder: Path) -> TransformerConfig:
    """Copy the Python files of the config's parts into the directory and name them relative to it."""
    names: dict[str, str] = {}

    def localize(layer: LayerConfig) -> LayerConfig:
        if not isinstance(layer.mixer, FilePartConfig):
            return layer
        path = layer.mixer.path
        if path not in names:
            stem = Path(path).stem.removeprefix("part_")
            name = f"part_{stem}.py" if f"part_{stem}.py" not in names.values() else f"part_{len(names)}_{stem}.py"
            names[path] = name
            shutil.copyfile(path, folder / name)
        return layer.model_copy(update={"mixer": layer.mixer.model_copy(update={"path": names[path]})})

    return config.with_layers(localize)


def _with_paths_under(config: TransformerConfig, folder: Path) -> TransformerConfig:
    def resolve(layer: LayerConfig) -> LayerConfig:
        if not isinstance(layer.mixer, FilePartConfig):
            return layer
        path = folder / layer.mixer.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"{folder}: the part {layer.mixer.name!r} lies outside of the directory ({layer.mixer.path})"
            )
        return layer.model_copy(update={"mixer": layer.mixer.model_copy(update={"path": str(path)})})

    return config.with_layers(resolve)


def _versions() -> dict[str, str]:
    return {"groundup": groundup.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _recover(folder: Path) -> None:
    """Bring back the directory that a crash in the middle of `_swap` left under its second name."""
    if old_version(folder).exists() and not folder.exists():
        old_version(folder).rename(folder)
    shutil.rmtree(old_version(folder), ignore_errors=True)


def _swap(temporary: Path, folder: Path) -> None:
    sync_folder(temporary)
    if folder.exists():
        folder.rename(old_version(folder))
    try:
        temporary.rename(folder)
    except OSError:
        if old_version(folder).exists():
            old_version(folder).rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old_version(folder), ignore_errors=True)
