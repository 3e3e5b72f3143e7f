"""The stages before training: source -> corpus with chat data -> tokenizer -> shards."""

from __future__ import annotations

import itertools
import json
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from groundup.core import console
from groundup.core.errors import DataError
from groundup.core.files import atomic_write, read_json, sha256_json, write_json
from groundup.core.seeds import random_for
from groundup.data.chat_examples import ChatExample, ChatSets, python_docs_examples, text_examples
from groundup.data.corpus import Corpus, write_corpus
from groundup.data.document import SPLITS, Document
from groundup.data.named import NAMED_SOURCES
from groundup.data.python_docs import read_entries
from groundup.data.readers import explained
from groundup.data.shards import INDEX, write_shards, write_token_shards
from groundup.data.sources import find_files, read_source
from groundup.recipes.settings import CorpusSettings, TokenizerKind, TokenizerSettings
from groundup.tokenizer import (
    ByteBPE,
    CharTokenizer,
    compiled,
    load_tokenizer,
    train_bpe,
    train_sentencepiece,
    train_unigram,
    train_word_level,
    train_wordpiece,
)
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import default_chat_template, encode_chat
from groundup.tokenizer.patterns import split_pattern
from groundup.tokenizer.scan_rules import SCAN_RULES

PYTHON_DOCS = "python-docs"


def read_documents(settings: CorpusSettings) -> list[Document]:
    """Read the source of the settings.

    Raises:
        DataError: when the source is empty, unreadable, binary, in a wrong encoding, or has no text column.
    """
    return read_source(settings.source, text_key=settings.text_key)


def source_fingerprint(source: str) -> str:
    """What changes when the source changes: names, sizes and times of its files, or the version that carries it."""
    if source in NAMED_SOURCES:
        return f"{source} {platform.python_version()}"
    path = Path(source).expanduser()
    with explained(path):
        files = find_files(path) if path.is_dir() else [path] * path.is_file()
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256_json(facts)


def make_corpus(
    settings: CorpusSettings, folder: Path, *, seed: int = 0, check: Callable[[int], None] | None = None
) -> Corpus:
    """Read the source, split it by group, and write corpus and chat data.

    Args:
        check: called with the bytes of text that were read, before anything is written; raises when they are too few.

    Writes `folder/{train,validation,test}.jsonl`, `folder/corpus.json` and `folder/chat/SPLIT.jsonl`.
    """
    with console.progress(f"corpus: reading {settings.source}", 1, "source") as ticker:
        documents = read_documents(settings)
        ticker.advance(1, f"{len(documents):,} documents")
    if check is not None:
        check(sum(document.num_bytes for document in documents))
    # Questions of another split must never stand beside this one, also when this is broken off.
    shutil.rmtree(folder / "chat", ignore_errors=True)
    corpus = write_corpus(
        documents,
        folder,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        seed=seed,
    )
    write_examples(make_examples(corpus, settings.source, seed=seed), folder / "chat")
    return corpus


def make_examples(corpus: Corpus, source: str, *, seed: int) -> ChatSets:
    """The chat data of a corpus: from the documentation's structure for `python-docs`, from any prose otherwise."""
    by_split = {split: list(corpus.documents(split)) for split in SPLITS}
    if source == PYTHON_DOCS:
        split_of: dict[str, str] = {}
        for split, documents in by_split.items():
            for document in documents:
                split_of[document.id] = split
                split_of[f"group:{document.id}"] = document.group
        entries = [entry for entry in read_entries() if entry.full_name in split_of]
        return python_docs_examples(entries, split_of, seed=seed)
    return text_examples(by_split, seed=seed)


def write_examples(sets: ChatSets, folder: Path) -> None:
    """Write each split's examples to `folder/SPLIT.jsonl`."""
    for split in SPLITS:
        with atomic_write(folder / f"{split}.jsonl") as file:
            for example in getattr(sets, split):
                file.write(json.dumps(example.to_dict(), ensure_ascii=False).encode() + b"\n")


def read_examples(folder: Path, split: str) -> list[ChatExample]:
    """Read the chat data that `make_corpus` left beside a corpus."""
    path = folder / "chat" / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path} does not exist: run  groundup corpus  again")
    with path.open(encoding="utf-8") as file:
        return [ChatExample.from_dict(json.loads(line)) for line in file]


def make_tokenizer(corpus: Corpus, settings: TokenizerSettings, folder: Path, *, max_length: int) -> Tokenizer:
    """Train a tokenizer on the training split and write it in the Hugging Face layout.

    Args:
        max_length: longest sequence of the model, in tokens; goes into `tokenizer_config.json`.
    """
    if settings.kind == "bpe" and split_pattern(settings.pattern).portable in SCAN_RULES:
        compiled.prepare(corpus.num_bytes("train"), _announce_compiler)
    tokenizer = train_school(
        (document.text for document in corpus.documents("train")),
        settings.kind,
        settings.vocab_size,
        pattern=settings.pattern,
    )
    tokenizer.save(folder, chat_template=default_chat_template(tokenizer).source, max_length=max_length)
    return load_tokenizer(folder)


def train_school(texts: Iterable[str], kind: TokenizerKind, vocab_size: int, *, pattern: str = "llama3") -> Tokenizer:
    """Train a tokenizer of one school, with progress.

    Args:
        texts: the documents.
        kind: the school.
        vocab_size: token ids, special ones included.
        pattern: which pieces may not be merged (byte-level BPE).
    """
    if kind == "char":
        return CharTokenizer.train(texts)
    if kind == "word":
        return train_word_level(texts, vocab_size)
    if kind == "unigram":
        with console.progress("tokenizer: pruning", 100, "%") as ticker:
            percent = console.Running(ticker)
            return train_unigram(
                texts, vocab_size, on_progress=lambda done, total: percent(100 * done // max(total, 1), 100)
            )
    steps = "merges" if kind == "bpe" else "tokens"
    with console.progress(f"tokenizer: {steps}", max(vocab_size - 260, 1), steps) as ticker:
        report = console.Running(ticker)
        if kind == "bpe":
            return train_bpe(texts, vocab_size, pattern=pattern, on_progress=report)
        train = train_wordpiece if kind == "wordpiece" else train_sentencepiece
        return train(texts, vocab_size, on_progress=report)


def _announce_compiler() -> None:
    console.say("tokenizer: compiling for this processor, once, about 10 s")


def make_shards(corpus: Corpus, tokenizer: Tokenizer, folder: Path, *, chat: bool, seed: int) -> None:
    """Tokenise every split into `folder/SPLIT`, and with `chat` the reading conversations into `folder/chat`."""
    total = sum(corpus.num_bytes(split) for split in SPLITS)
    if isinstance(tokenizer, ByteBPE) and tokenizer.is_scanned:
        compiled.prepare(total, _announce_compiler)
    with console.progress("tokenizer: encoding", total, "bytes") as ticker:
        for split in SPLITS:
            write_shards(
                corpus.documents(split), tokenizer, folder / split, on_progress=lambda done: ticker.advance(done)
            )
    conversations = _conversations(corpus, tokenizer, seed) if chat else iter(())
    first = next(conversations, None)
    if first is not None:
        write_token_shards(itertools.chain([first], conversations), tokenizer, folder / "chat")
        return
    shutil.rmtree(folder / "chat", ignore_errors=True)
    if chat:
        console.warn("no reading questions could be made from this text: pretraining reads documents only")


def current_shards(corpus: Corpus, tokenizer: Tokenizer, folder: Path, *, chat: bool, seed: int) -> None:
    """`make_shards`, unless the folder holds those of this very corpus, tokenizer and seed."""
    made_from = {
        "corpus": sha256_json(corpus.manifest["splits"]),
        "chat": [sha256_json(example.to_dict()) for example in read_examples(corpus.folder, "train")] if chat else None,
        "tokenizer": tokenizer.fingerprint(),
        "seed": seed,
    }
    marker = folder / "made_from.json"
    is_whole = all((folder / split / INDEX).is_file() for split in SPLITS)
    if not is_whole or not marker.is_file() or read_json(marker) != made_from:
        marker.unlink(missing_ok=True)
        make_shards(corpus, tokenizer, folder, chat=chat, seed=seed)
        write_json(marker, made_from)


def _conversations(corpus: Corpus, tokenizer: Tokenizer, seed: int) -> Iterator[tuple[str, list[int], int]]:
    """The training conversations in which the answer stands in the prompt, as token ids in a random order."""
    template = default_chat_template(tokenizer)
    examples = [e for e in read_examples(corpus.folder, "train") if not e.kind.startswith("recall")]
    random_for(seed, "pretrain", "chat").shuffle(examples)
    for index, example in enumerate(examples):
        text_bytes = sum(len(message["content"].encode()) for message in example.messages)
        yield f"chat:{index}", encode_chat(tokenizer, template, example.messages).ids, text_bytes
