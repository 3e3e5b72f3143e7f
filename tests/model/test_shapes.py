"""The shapes that a config tells are those of the model that is built from it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families import CASES
from groundup.core.errors import ModelError
from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    FilePartConfig,
    LayerConfig,
    RMSNormConfig,
    TransformerConfig,
)
from groundup.model.hf_config import from_hf
from groundup.model.presets import PRESETS, preset
from groundup.model.shapes import parameter_shapes
from groundup.model.transformer import assemble


def built(config: TransformerConfig) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return [(name, tuple(tensor.shape)) for name, tensor in assemble(config).state_dict().items()]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_of_every_preset(name: str) -> None:
    config = preset(name, num_hidden_layers=2)
    assert list(parameter_shapes(config).items()) == built(config)


@pytest.mark.parametrize("case", CASES)
def test_of_every_published_family(case: str) -> None:
    config = from_hf(CASES[case])
    assert list(parameter_shapes(config).items()) == built(config)


def with_layers(**changes: object) -> TransformerConfig:
    return preset("llama3", hidden_size=32, num_attention_heads=4, num_hidden_layers=2).with_layers(
        lambda layer: LayerConfig.model_validate({**dict(layer), **changes})
    )


@pytest.mark.parametrize("scope", ["head", "all"])
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "output"])
def test_of_parts_that_no_family_joins(scope: str, placement: str) -> None:
    mixer = AttentionConfig(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        qkv_bias=True,
        output_bias=True,
        qk_norm=RMSNormConfig(),
        qk_norm_scope=scope,
        sink_logits=True,
    )
    cross = CrossAttentionConfig(num_attention_heads=2, num_key_value_heads=1, head_dim=8, memory_size=24)
    config = with_layers(mixer=mixer, cross_attention=cross, placement=placement)
    assert list(parameter_shapes(config).items()) == built(config)


def test_a_part_of_a_file_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the part 'Own' in own\.py cannot be known from the config"):
        parameter_shapes(with_layers(mixer=FilePartConfig(path="own.py", name="Own")))
