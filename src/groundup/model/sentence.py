"""How a sentence encoder pools, in the files of the sentence-transformers library. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core.errors import ModelError
from groundup.core.files import read_json, write_json
from groundup.model.config import PoolingConfig

MODULES_FILE, POOLING_FILE = "modules.json", "1_Pooling/config.json"
LENGTH_FILE = "sentence_bert_config.json"
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}


def read_pooling(folder: Path) -> PoolingConfig | None:
    """The pooling that `modules.json` and the files it names describe, or None where there is no such file.

    Raises:
        ModelError: for a module or a mode that is not known here.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    modules = read_json(folder / MODULES_FILE, ModelError)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{folder / MODULES_FILE} is no list of modules")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise ModelError(f"{folder / MODULES_FILE} has {', '.join(unknown)}; known are Transformer, Pooling, Normalize")
    if "Pooling" not in kinds:
        return None
    path = folder / Path(str(modules[kinds.index("Pooling")].get("path") or "1_Pooling")).name / "config.json"
    values = read_json(path, ModelError)
    chosen = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    kind = next((kind for kind, key in _MODES.items() if chosen == [key]), None)
    if kind is None:
        raise ModelError(f"{path} has {', '.join(chosen) or 'no mode'}; known is one of {', '.join(_MODES.values())}")
    return PoolingConfig(kind=kind, normalize="Normalize" in kinds, max_length=_read_max_length(folder))


def _read_max_length(folder: Path) -> int | None:
    """Where sentence-transformers cuts texts, which can be well before the model's end."""
    path = folder / LENGTH_FILE
    values = read_json(path, ModelError) if path.is_file() else {}
    length = values.get("max_seq_length") if isinstance(values, dict) else None
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise ModelError(f"{path}: max_seq_length is {length!r}, not a number of tokens")
    return length


def write_pooling(folder: Path, pooling: PoolingConfig, hidden_size: int, max_length: int) -> None:
    """Write the files from which sentence-transformers makes the same encoder."""
    kinds: list[tuple[str, str]] = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if pooling.normalize:
        kinds.append(("2_Normalize", "Normalize"))
    modules: list[dict[str, Any]] = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / MODULES_FILE, modules)
    modes = {key: kind == pooling.kind for kind, key in _MODES.items()}
    write_json(folder / POOLING_FILE, {"word_embedding_dimension": hidden_size, **modes})
    length = min(pooling.max_length or max_length, max_length)
    # Lower case is the tokenizer's affair, here as in sentence-transformers' own files of MiniLM.
    write_json(folder / LENGTH_FILE, {"max_seq_length": length, "do_lower_case": False})
