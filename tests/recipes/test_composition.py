"""`[model.layer]`: what a file of settings changes in a preset's layers, and what it is told when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import ConfigError, UsageError
from groundup.model.config import (
    AttentionConfig,
    DenseMLPConfig,
    FilePartConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    RMSNormConfig,
    TransformerConfig,
)
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.recipes.composition import anchored, check_trusted, composition, file_parts
from groundup.recipes.settings import ModelSettings

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}


def composed(layer: dict[str, Any], **fields: Any) -> TransformerConfig:
    return composition(ModelSettings(**{**SHAPE, **fields}, layer=layer), vocab_size=64)


def test_without_changes_it_is_the_preset() -> None:
    expected = preset("qwen3", vocab_size=64, **SHAPE, num_key_value_heads=2, head_dim=16, rope_theta=1e4,
                      tie_word_embeddings=True)  # fmt: skip
    assert composed({}) == expected


def test_another_kind_replaces_the_part_and_keeps_the_width() -> None:
    for layer in composed({"mlp": {"kind": "dense", "activation": "relu2", "bias": False}}).layers():
        assert layer.mlp == DenseMLPConfig(intermediate_size=48, activation="relu2", bias=False)
        assert layer.norm == composed({}).layers()[0].norm
    wide = composed({"mlp": {"kind": "dense", "intermediate_size": 96}}).layers()[0].mlp
    assert wide == DenseMLPConfig(intermediate_size=96)


def test_the_same_kind_changes_the_fields_that_it_names() -> None:
    mlp = composed({"mlp": {"activation": "gelu"}}).layers()[0].mlp
    assert mlp == GatedMLPConfig(intermediate_size=48, activation="gelu")
    mixer = composed({"mixer": {"sliding_window": 8}}).layers()[2].mixer
    assert isinstance(mixer, AttentionConfig) and mixer.sliding_window == 8 and mixer.rotary is not None


def test_none_takes_an_optional_part_away_and_a_table_adds_one() -> None:
    without = composed({"mixer": {"qk_norm": "none"}}).layers()[0].mixer
    assert isinstance(without, AttentionConfig) and without.qk_norm is None
    added = composed({"mixer": {"qk_norm": {"kind": "rms_norm"}}}, preset="llama3").layers()[0].mixer
    assert isinstance(added, AttentionConfig) and added.qk_norm == RMSNormConfig()


def test_the_final_norm_stays_the_norm_of_the_layers() -> None:
    config = composed({"norm": {"kind": "layer_norm"}, "placement": "sandwich"})
    assert config.final_norm == LayerNormConfig() and config.layers()[0].placement == "sandwich"


def test_learned_positions_give_way_to_rotary_ones() -> None:
    config = composed({"mixer": {"rotary": {"rope_theta": 5e3}}}, preset="gpt2", positions="none")
    mixer = config.layers()[0].mixer
    assert config.positions is None and isinstance(mixer, AttentionConfig)
    assert mixer.rotary is not None and mixer.rotary.rope_theta == 5e3
    build(config)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"mlpp": {}}, r"model.layer: LayerConfig has no field 'mlpp' \(did you mean 'mlp'\?\)"),
        ({"mlp": {"activatoin": "relu2"}}, r"GatedMLPConfig has no field 'activatoin' \(did you mean 'activation'\?\)"),
        ({"mlp": {"kind": "densse"}}, r"'densse' found using 'kind' does not match .*'dense', 'gated'"),
        ({"mlp": 3}, r"model.layer: LayerConfig.mlp: .*\(got 3\)"),
        ({"mlp": "none"}, r"LayerConfig.mlp.*None"),
        ({"placement": "pro"}, r"LayerConfig.placement: .*'sandwich' \(got 'pro'\)"),
        ({"mixer": {"kind": "file", "path": "x.py"}}, r"FilePartConfig.name: Field required"),
        ({"mixer": {"num_key_value_heads": 3}}, r"num_attention_heads \(2\) must be a multiple"),
    ],
)
def test_what_no_layer_has_is_named(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(layer)


def test_paths_of_parts_are_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    values = {"model": {"layer": {"mixer": {"kind": "file", "path": "a/b.py", "name": "B"}}}, "train": {"path": "x"}}
    found = anchored(values, tmp_path)
    assert found["model"]["layer"]["mixer"]["path"] == str(tmp_path / "a/b.py")
    assert found["train"] == {"path": "x"} and values["model"]["layer"]["mixer"]["path"] == "a/b.py"


def test_code_is_refused_until_it_is_trusted() -> None:
    config = composed({"mixer": {"kind": "file", "path": "/tmp/mine.py", "name": "Mine"}})
    assert file_parts(config) == [FilePartConfig(path="/tmp/mine.py", name="Mine")]
    with pytest.raises(UsageError, match=r"'Mine' of the file /tmp/mine.py.*--trust-code"):
        check_trusted(config, False)
    check_trusted(config, True)
    assert isinstance(config.layers()[0], LayerConfig)
