"""Tokenizers shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundup.tokenizer import ByteBPE, train_bpe

SENTENCES = [
    "The quick brown fox jumps over the lazy dog; the dog's asleep, isn't it?\n\n",
    "def add(a, b=10):\n    return a + b  # 12345 numbers\n\n\tx = {'k': [1, 2, 3]}\n",
    "Übergrößenträger, naïve café, Ελλάδα, Россия, 日本語の文章。 नमस्ते 👩‍👩‍👧‍👦 🇩🇪 e\u0301\n",
    "<|im_start|>assistant\nHello.<|im_end|>\n",
]


@pytest.fixture(scope="session")
def small_bpe() -> ByteBPE:
    return train_bpe(SENTENCES * 3, 420)


@pytest.fixture(scope="session")
def gpt2(shared_data: Path) -> ByteBPE:
    """The real GPT-2 tokenizer, from OpenAI's merges."""
    return ByteBPE.from_gpt2_files(shared_data / "bpe" / "gpt2_vocab.json", shared_data / "bpe" / "gpt2_merges.txt")


@pytest.fixture(scope="session")
def shakespeare(shared_data: Path) -> str:
    return (shared_data / "shakespeare" / "input.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def languages(shared_data: Path) -> dict[str, str]:
    """The Universal Declaration of Human Rights, by language."""
    files = sorted((shared_data / "udhr").glob("*.txt"))
    assert len(files) == 58
    return {file.stem: file.read_text(encoding="utf-8") for file in files}
