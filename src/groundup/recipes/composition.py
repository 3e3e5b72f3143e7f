"""From the settings of a model to its typed composition: a preset's, with what `[model.layer]` changes in its layers.

Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core.config import merge
from groundup.core.errors import ConfigError, UsageError
from groundup.model.config import FilePartConfig, LayerConfig, TransformerConfig
from groundup.model.presets import preset
from groundup.recipes.settings import ModelSettings

#: What stands for "no such part" in a file of settings: TOML has no null.
NONE = "none"


def composition(settings: ModelSettings, **ids: int | None) -> TransformerConfig:
    """The typed composition of the settings.

    `settings.layer` is merged into each layer of the preset: a table that names another `kind` replaces the part, any
    other changes the fields it names, and "none" takes an optional part away. A new MLP keeps the width where it does
    not say one, and the final norm stays the layers' norm where the preset has it so.

    Args:
        settings: shapes, preset, changes of the layer.
        ids: `vocab_size` and the special ids.

    Raises:
        ConfigError: for a key or kind that no part has (the nearest known key is named), or values that do not fit.
    """
    fields: dict[str, Any] = settings.to_dict()
    name, changes = fields.pop("preset"), without_none(fields.pop("layer"))
    positions = fields.pop("positions")
    heads = settings.num_attention_heads
    if name == "gpt2":
        for unused in ("num_key_value_heads", "head_dim", "rope_theta"):
            fields.pop(unused)
    else:
        fields["head_dim"] = settings.head_dim or settings.hidden_size // heads
        fields["num_key_value_heads"] = settings.num_key_value_heads or heads
    config = preset(name, **fields, **ids)
    if positions is not None:
        config = config.replace(positions=None if positions == NONE else {"kind": positions})
    return changed_layers(config, changes) if changes else config


def changed_layers(config: TransformerConfig, changes: dict[str, Any]) -> TransformerConfig:
    """A copy in which `changes` are merged into each layer (see `composition`)."""

    def change(layer: LayerConfig) -> LayerConfig:
        given = changes
        mlp = changes.get("mlp")
        if isinstance(mlp, dict):
            given = {**changes, "mlp": {"intermediate_size": layer.mlp.intermediate_size, **mlp}}
        try:
            return LayerConfig(**merge(layer.to_dict(), given))
        except ConfigError as error:
            raise ConfigError(f"model.layer: {error}") from None

    first = config.layers()[0]
    changed = config.with_layers(change)
    norm = changed.layers()[0].norm
    if config.final_norm == first.norm and norm != first.norm:
        changed = changed.replace(final_norm=norm.to_dict())
    return changed


def without_none(value: Any) -> Any:
    """The value with each text "none" in its tables turned into None."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items()}
    return None if value == NONE else value


def anchored(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a file with the paths of its parts of kind `file` read from the file's own folder."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found[key] = anchored(value, folder) if isinstance(value, dict) else value
    if values.get("kind") == "file" and isinstance(values.get("path"), str):
        found["path"] = str((folder / values["path"]).absolute())
    return found


def file_parts(config: TransformerConfig) -> list[FilePartConfig]:
    """The parts of kind `file`, each once."""
    parts: list[FilePartConfig] = []
    for _, layer in config.stack:
        if isinstance(layer.mixer, FilePartConfig) and layer.mixer not in parts:
            parts.append(layer.mixer)
    return parts


def check_trusted(config: TransformerConfig, trust_code: bool) -> None:
    """Refuse parts of kind `file` that the user did not allow, before anything is made.

    Raises:
        UsageError: naming the part and the file.
    """
    for part in file_parts(config):
        if not trust_code:
            raise UsageError(
                f"the model has the part {part.name!r} of the file {part.path}, which would run its code: "
                "read the file, then give --trust-code"
            )
