"""Every family is one graph for torch.compile: windows, caps and scalings included. In a process without shape checks."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys, torch, torch._dynamo
from groundup.model.presets import preset
from groundup.model.transformer import build

DYNAMIC = {"kind": "dynamic", "factor": 4.0, "original_max_position_embeddings": 8}
FIELDS = {
    "mistral": {"sliding_window": 5},
    "qwen2": {"sliding_window": 5, "layer_types": ("full_attention", "sliding_attention")},
    "gemma2": {"sliding_window": 5, "head_dim": 8},
    "gemma3": {"sliding_window": 5, "head_dim": 8, "layer_types": ("full_attention", "sliding_attention")},
    "olmo2": {},
    "llama3": {"rope_scaling": DYNAMIC},
    "bert": {},
}
for name in sys.argv[2:]:
    torch._dynamo.reset()
    model = build(preset(name, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=32, intermediate_size=48, **FIELDS[name]))
    ids = torch.arange(32).view(2, 16)
    assert torch._dynamo.explain(model)(ids).graph_break_count == 0, name
    if sys.argv[1] == "breaks":
        continue
    gradients = []
    for forward in (model, torch.compile(model)):
        model.zero_grad()
        hidden = forward(ids)
        (model.logits(hidden) if model.config.has_head else hidden).logsumexp(-1).sum().backward()
        found = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
        gradients.append({key: value for key, value in found.items() if "k_proj.bias" not in key})
    for key, expected in gradients[0].items():
        assert (gradients[1][key] - expected).abs().max() <= 1e-5 * expected.abs().max(), (name, key)
"""


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_windows_and_two_kinds_of_rotary_break_no_graph() -> None:
    run("breaks", "gemma3")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral", "qwen2", "gemma2", "gemma3", "olmo2", "llama3", "bert"])
def test_compiles_whole_with_equal_gradients(name: str) -> None:
    run("gradients", name)
