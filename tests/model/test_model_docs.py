"""The concept pages of the model: their code runs, their files exist, their claims about names hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from groundup.model.transformer import Transformer
from groundup.model.weights.names import slots

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["typed-composition", "model-directory"]


def test_the_code_of_the_composition_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "concepts" / "typed-composition.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out == f"{torch.Size([1, 4, 3, 3])}\n"
    assert names["mixed"].num_hidden_layers == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PAGES)
def test_files_that_a_page_names_exist(name: str) -> None:
    page = (ROOT / "docs" / "concepts" / f"{name}.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:model|tests)/[\w/.]+\.py)`", page):
        assert (ROOT / path).is_file() or (ROOT / "src" / "groundup" / path).is_file(), path


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "gpt2"), ("llama3", "llama"), ("qwen3", "qwen3")])
def test_every_tensor_has_a_place(name: str, kind: str, small_model: Callable[..., Transformer]) -> None:
    model = small_model(name, tie_word_embeddings=False)
    where = slots(kind, model.state_dict())
    assert set(where) == set(model.state_dict())
    places = [(slot.theirs, slot.part) for slot in where.values()]
    assert len(places) == len(set(places))


COMPILED = """
import sys, torch
import torch._dynamo
from groundup.model.presets import preset
from groundup.model.transformer import build
model = build(preset(sys.argv[1], vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     max_position_embeddings=32, intermediate_size=48))
ids = torch.arange(32).view(2, 16)
assert torch._dynamo.explain(model)(ids).graph_break_count == 0
gradients = []
for forward in (model, torch.compile(model)):
    model.zero_grad()
    model.logits(forward(ids)).logsumexp(-1).sum().backward()
    gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if "k_proj.bias" not in name})
for name, expected in gradients[0].items():
    assert (gradients[1][name] - expected).abs().max() <= 1e-5 * expected.abs().max(), name
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen3"])
def test_compiles_whole_with_equal_gradients(name: str) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", COMPILED, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
