"""The two files of a comparison: read, checked, resolved into settings, and sized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from groundup.core.config import merge, read_config_file
from groundup.core.errors import ConfigError, UsageError, suggest
from groundup.core.files import sha256_file
from groundup.model.config import FilePartConfig, TransformerConfig
from groundup.model.counts import count_parameters, flops_per_token
from groundup.model.parts import PARTS, Builder, Context, count_positions
from groundup.recipes.composition import anchored, check_trusted, composition, file_parts
from groundup.recipes.dial import check_overrides, settings_for
from groundup.recipes.settings import SpeedrunSettings

#: What a file may hold, and the name that the dial has for it.
TABLES = {"depth": "depth", "tokenizer": "tokenizer", "model": "model", "train": "pretrain", "execution": "execution"}
#: What is given for both at once, and how.
COMMON = {
    "corpus": "the text is the same for both: give it once, with --corpus",
    "evaluation": "both are measured alike",
    "seed": "both take the same seeds: give the first with --seed, and how many with --seeds",
    "sft": "only pretraining is compared",
    "pretrain": "the table is called train here, as in  groundup pretrain",
}
#: Planted heads fit one block and not another, and conversations are not what is measured.
DEFAULTS: dict[str, Any] = {"pretrain": {"chat_share": 0.0, "starting_values": "normal"}}


@dataclass(frozen=True)
class Idea:
    """One of the two files.

    Attributes:
        name: how tables and sentences call it: the file's name without its end.
        path: the file.
        given: what it says, under the dial's names, paths of parts made absolute.
        raw: what it says, as it stands there.
    """

    name: str
    path: Path
    given: dict[str, Any]
    raw: dict[str, Any]

    def settings(self, depth: int, train_bytes: int, more: dict[str, Any] | None = None) -> SpeedrunSettings:
        """The resolved settings: the dial's, then the comparison's own defaults, then the file's, then `more`.

        Raises:
            ConfigError: naming the file, for values that cannot be.
        """
        values = merge(merge(DEFAULTS, self.given), more or {})
        try:
            return settings_for(values.pop("depth", depth), train_bytes, values)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None

    def config(self, settings: SpeedrunSettings, trust_code: bool, **ids: int | None) -> TransformerConfig:
        """The composition of resolved settings.

        Raises:
            UsageError: naming the file, for parts that do not exist or are not trusted.
        """
        try:
            config = composition(settings.model, **ids)
            check_trusted(config, trust_code)
        except UsageError as error:
            raise type(error)(f"{self.path}: {error}") from None
        return config


def read_ideas(paths: Sequence[Path]) -> tuple[Idea, Idea]:
    """Read both files; where their names are the same, they are called A and B.

    Raises:
        ConfigError: for a file that cannot be read, or a key that is not for it, naming the nearest known one.
    """
    names = [path.stem for path in paths]
    if names[0] == names[1]:
        names = ["A", "B"]
    first, second = (_read(path, name) for path, name in zip(paths, names, strict=True))
    return first, second


def _read(path: Path, name: str) -> Idea:
    raw = read_config_file(path)
    for key in raw:
        if key in COMMON:
            raise ConfigError(f"{path} holds {key!r}: {COMMON[key]}")
        if key not in TABLES:
            raise ConfigError(f"{path} holds {key!r}, which is not compared{suggest(key, tuple(TABLES))}")
    given = {TABLES[key]: value for key, value in anchored(raw, path.parent).items()}
    try:
        check_overrides(given)
        # Also what only the whole says, before a corpus is read: any size of text and vocabulary will do.
        composition(settings_for(given.get("depth", 4), 1_000_000, merge(DEFAULTS, given)).model, vocab_size=512)
    except ConfigError as error:
        text = str(error).replace("pretrain.", "train.").replace("pretrain has", "train has")
        raise ConfigError(f"{path}: {text}") from None
    return Idea(name, path, given, raw)


def code_hashes(config: TransformerConfig) -> dict[str, str]:
    """File name -> hash of each Python file that a composition names."""
    return {Path(part.path).name: sha256_file(Path(part.path)) for part in file_parts(config)}


@dataclass(frozen=True)
class Sizes:
    """What a model has and costs.

    Attributes:
        parameters, non_embedding: counts.
        flops_per_token: of training: three times the forward's.
    """

    parameters: int
    non_embedding: int
    flops_per_token: int


def sizes_of(config: TransformerConfig, context: int) -> Sizes:
    """Count parameters and operations; parts of kind `file` are built and counted, everything else is computed.

    Args:
        config: a composition whose code is trusted.
        context: tokens of a training window.
    """
    parts = {part.to_json(): _count_part(part, config.hidden_size, context) for part in file_parts(config)}

    def parameters(part: FilePartConfig) -> int:
        return parts[part.to_json()][0]

    def operations(part: FilePartConfig) -> int:
        return parts[part.to_json()][1]

    counts = count_parameters(config, file_part=parameters)
    return Sizes(counts.total, counts.non_embedding, 3 * flops_per_token(config, context, file_part=operations))


def _count_part(config: FilePartConfig, hidden_size: int, context: int) -> tuple[int, int]:
    """Parameters of a part, and operations of its forward for each token of a window.

    Matrix products are counted, as for the parts known here; the fused attention kernel of the CPU tells nothing, so
    the one made of products stands in for it.
    """
    part = Builder(PARTS, 0, True)(config, hidden_size)
    positions = count_positions((1, context), length=0, mask=None, segments=None, device=torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        part(torch.zeros(1, context, hidden_size), Context(positions), None)
    return sum(parameter.numel() for parameter in part.parameters()), counter.get_total_flops() // context
