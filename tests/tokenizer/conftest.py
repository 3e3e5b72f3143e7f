"""Tokenizers shared by the tests of this folder."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from groundup.tokenizer import ByteBPE, Tokenizer, train_bpe

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


@pytest.fixture(scope="session")
def sources() -> list[str]:
    """Python source code."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ("textwrap.py", "ast.py", "email/header.py")
    return [(folder / name).read_text(encoding="utf-8")[:80_000] for name in names]


@pytest.fixture(scope="session")
def corpus(shakespeare: str, languages: dict[str, str], sources: list[str]) -> dict[str, list[str]]:
    """Real texts in pieces short enough for the regular expressions of llama.cpp, and random ones."""
    texts = {
        "shakespeare": pieces_of(shakespeare[:80_000]),
        "source": [piece for source in sources for piece in pieces_of(source[:20_000])],
        "languages": [piece for text in languages.values() for piece in pieces_of(text[:3_000])],
    }
    return texts | {"random": random_texts(random.Random(7), 300)}


def pieces_of(text: str, size: int = 1_500) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


PARTS = ["'s", "'S", "'ll", " ", "  ", "\n", "\r\n", "\t", "123", "1234", "½", "a", " the", "é", "e\u0301", "日本"]
PARTS += [
    "...",
    "!\n",
    "__",
    "A",
    "Bc",
    "\u00a0",
    "[INST]",
    "#include",
    "= 0x1F;",
    ";\n/",
    "👍🏽",
    "한국어",
    "ไทย",
    "Straße",
]


def random_texts(draw: random.Random, count: int) -> list[str]:
    """Texts of assigned characters and of what the split patterns look at."""
    found = []
    for _ in range(count):
        if draw.random() < 0.5:
            ranges = [(0x20, 0x7F), (0xA1, 0x250), (0x391, 0x3A1), (0x410, 0x450), (0x4E00, 0x9FA5), (0x1F600, 0x1F640)]
            codes = [draw.randrange(*draw.choice(ranges)) for _ in range(draw.randint(1, 40))]
            found.append("".join(map(chr, codes)))
        else:
            found.append("".join(draw.choices(PARTS, k=draw.randint(1, 25))))
    return found


VOCABULARIES = user_cache_path("groundup") / "oracles" / "vocabs"


@pytest.fixture(scope="session")
def vocabulary_file() -> Callable[[str], Path]:
    """Where one of llama.cpp's vocabulary files lies; skips where they are absent."""

    def find(name: str) -> Path:
        path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
        if not path.is_file():
            pytest.skip(f"needs {path} of the source distribution of llama-cpp-python: run  make oracles")
        return path

    return find


@pytest.fixture(scope="session")
def llama_vocabulary(vocabulary_file: Callable[[str], Path]) -> Callable[[str], tuple[dict[str, Any], Tokenizer]]:
    """The metadata of such a file and our tokenizer for it, read once."""
    from groundup.model.weights.gguf_read import open_gguf
    from groundup.tokenizer.gguf_vocabulary import tokenizer_from_gguf

    known: dict[str, tuple[dict[str, Any], Tokenizer]] = {}

    def read(name: str) -> tuple[dict[str, Any], Tokenizer]:
        if name not in known:
            with open_gguf(vocabulary_file(name)) as file:
                metadata = file.metadata
            known[name] = (metadata, tokenizer_from_gguf(metadata))
        return known[name]

    return read
