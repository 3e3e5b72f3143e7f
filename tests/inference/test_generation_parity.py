"""The loops against transformers' `generate`, and on other dtypes and devices."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from groundup.core.errors import UsageError
from groundup.inference.generate import complete_batch, generate
from groundup.inference.sampling import Sampling
from groundup.inference.session import open_session
from groundup.model.directory import load_model_directory, save_model_directory
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_ids_equal_those_of_transformers(tiny, family: str, byte_tokenizer, tmp_path, penalty: float) -> None:
    model = tiny(family, 6, vocab_size=260)
    save_model_directory(tmp_path / "m", model, byte_tokenizer, chat_template=None, lineage={})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    theirs.generation_config.eos_token_id = None
    source = random.Random(1)
    prompts = [[source.randrange(256) for _ in range(length)] for length in (3, 11, 7)]
    ours = complete_batch(
        model, prompts, Sampling(temperature=0, max_new_tokens=12, repetition_penalty=penalty), pad_id=259
    )
    for prompt, row in zip(prompts, ours, strict=True):
        ids = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=12,
            repetition_penalty=penalty,
            pad_token_id=259,
        )
        assert row.tokens == ids[0, len(prompt) :].tolist()


def test_a_session_opens_from_a_model_directory(tiny, byte_tokenizer, tmp_path) -> None:
    model = tiny("qwen3", 3, max_length=300, vocab_size=260)
    for name, template in (("chat", DEFAULT_CHAT_TEMPLATE), ("base", None)):
        save_model_directory(
            tmp_path / name,
            model,
            byte_tokenizer,
            chat_template=template,
            lineage={},
            generation={"eos_token_id": [258, 7]},
        )
    session = open_session(load_model_directory(tmp_path / "chat"), sampling=Sampling(max_new_tokens=6))
    assert session.stop_ids == {7, 256, 258}
    assert isinstance(session.reply("hello"), str) and len(session.messages) == 2
    with pytest.raises(UsageError, match=r"base has no chat template: it is a base model"):
        open_session(load_model_directory(tmp_path / "base"))


def test_a_bfloat16_model_generates(tiny) -> None:
    model = tiny("llama3", 2).to(torch.bfloat16)
    steps = list(generate(model, [1, 2, 3], Sampling(max_new_tokens=6, seed=1)))
    rows = complete_batch(model, [[1, 2, 3], [5]], Sampling(max_new_tokens=6, seed=1), pad_id=0)
    assert len(steps) == 6 and all(step.logprob < 0 for step in steps)
    assert [len(row.tokens) for row in rows] == [6, 6]


@pytest.mark.gpu
def test_a_gpu_gives_the_tokens_of_the_cpu(tiny, family: str) -> None:
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [58]]
    for sampling in (Sampling(temperature=0, max_new_tokens=12), Sampling(max_new_tokens=12, seed=3)):
        expected = complete_batch(tiny(family, 8), prompts, sampling, pad_id=60)
        model = tiny(family, 8).to("cuda")
        found = complete_batch(model, prompts, sampling, pad_id=60)
        assert [row.tokens for row in found] == [row.tokens for row in expected]
        for prompt, row in zip(prompts, found, strict=True):
            assert [step.token for step in generate(model, prompt, sampling)] == row.tokens
