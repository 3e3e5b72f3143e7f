"""`tokenizer.json` and `tokenizer_config.json`, as the `tokenizers` and `transformers` libraries read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.core.errors import TokenizerError
from groundup.core.files import read_json, write_json
from groundup.tokenizer.byte_level import CHARACTER_TO_BYTE, to_bytes, to_characters
from groundup.tokenizer.patterns import PATTERNS

if TYPE_CHECKING:
    from groundup.tokenizer.bpe import ByteBPE
    from groundup.tokenizer.characters import CharTokenizer

ANY_CHARACTER = r"[\s\S]"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
# What transformers itself writes for "no limit known".
_NO_LIMIT = 1000000000000000019884624838656


def bpe_to_json(tokenizer: ByteBPE) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a byte-level BPE tokenizer."""
    vocab = {to_characters(token): id for token, id in tokenizer.vocab.items()}
    # In the vocabulary too, as in GPT-2's own files: otherwise `tokenizers` numbers them anew after the last token.
    extra = {**tokenizer.special_tokens, **tokenizer.added_tokens}
    ordered = sorted({**vocab, **extra}.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer.special_tokens, tokenizer.added_tokens),
        "normalizer": {"type": "NFC"} if tokenizer.normalizes else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [_isolate(tokenizer.pattern.portable), _BYTE_LEVEL],
        },
        "post_processor": tokenizer.post_processor,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.ignores_merges,
            "vocab": dict(ordered),
            "merges": [[to_characters(left), to_characters(right)] for left, right in tokenizer.merges],
        },
    }


def characters_to_json(tokenizer: CharTokenizer) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a character tokenizer: each character is a word."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer.special_tokens, {}),
        "normalizer": None,
        "pre_tokenizer": _isolate(ANY_CHARACTER),
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {**tokenizer.vocab, **tokenizer.special_tokens},
            "unk_token": next(text for text, id in tokenizer.vocab.items() if id == tokenizer.unknown_id),
        },
    }


def config_json(
    tokenizer: ByteBPE | CharTokenizer, chat_template: str | None, max_length: int | None
) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`.

    The class is named in full: without it a Qwen3 directory silently gets the split pattern of Qwen2.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos,
        "eos_token": tokenizer.eos,
        "pad_token": tokenizer.pad,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _NO_LIMIT if max_length is None else max_length,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config


def save(folder: Path, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Write both files, each whole or not at all."""
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", config)


def read_gpt2_files(vocab_file: Path, merges_file: Path) -> dict[str, Any]:
    """Return the arguments of `ByteBPE` for OpenAI's `vocab.json` and `merges.txt`."""
    words = read_json(vocab_file, TokenizerError)
    try:
        lines = merges_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{merges_file} cannot be read: {error}") from None
    special = {"<|endoftext|>": words["<|endoftext|>"]} if "<|endoftext|>" in words else {}
    pairs = [line for line in lines if line and not line.startswith("#version")]
    return {
        "vocab": parse_vocab(words, special, str(vocab_file)),
        "merges": parse_merges(pairs, str(merges_file)),
        "pattern": PATTERNS["gpt2"].name,
        "special_tokens": special,
        "bos": next(iter(special), None),
        "eos": next(iter(special), None),
    }


def parse_vocab(words: Any, added: dict[str, int], where: str) -> dict[bytes, int]:
    """Read `{"Ġthe": 262, ...}` as bytes and ids, leaving out the tokens that are `added`.

    Raises:
        TokenizerError: when an entry is not an id, or a token is not written in the byte-level alphabet.
    """
    if not isinstance(words, dict) or not words:
        raise TokenizerError(f"{where}: the vocabulary is {_kind(words)}, not a table of tokens and their ids")
    vocab: dict[bytes, int] = {}
    for token, id in words.items():
        check_id(token, id, where)
        if token in added:
            if added[token] != id:
                raise TokenizerError(
                    f"{where}: {token!r} has the id {id} in the vocabulary and {added[token]} beside it"
                )
            continue
        foreign = next((character for character in token if character not in CHARACTER_TO_BYTE), None)
        if foreign is not None or not token:
            raise TokenizerError(
                f"{where}: the token {token!r} (id {id}) is not written in the byte-level alphabet"
                f"{f' ({foreign!r} stands for no byte)' if foreign else ''}: is this another kind of tokenizer?"
            )
        vocab[to_bytes(token)] = id
    return vocab


def parse_merges(merges: Any, where: str) -> list[tuple[bytes, bytes]]:
    """Read `["Ġ t", ...]` or `[["Ġ", "t"], ...]` as pairs of byte strings.

    Raises:
        TokenizerError: when an entry is not a pair, or not written in the byte-level alphabet.
    """
    if not isinstance(merges, list):
        raise TokenizerError(f"{where}: merges is {_kind(merges)}, not a list")
    pairs: list[tuple[bytes, bytes]] = []
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"{where}: merge {rank} is {merge!r}, not a pair of tokens")
        try:
            pairs.append((to_bytes(parts[0]), to_bytes(parts[1])))
        except KeyError as error:
            raise TokenizerError(
                f"{where}: merge {rank} ({merge!r}) holds {error.args[0]!r}, which stands for no byte"
            ) from None
    return pairs


#: No published vocabulary is near; a larger id is a damaged file, and a model would allocate a row for each.
LARGEST_ID = 1 << 24


def check_id(token: str, id: Any, where: str) -> None:
    """Refuse what cannot be a token id.

    Raises:
        TokenizerError: when it is not an integer from 0 up to 2**24.
    """
    if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < LARGEST_ID:
        raise TokenizerError(f"{where}: the token {token!r} has the id {id!r}: it must be from 0 to {LARGEST_ID - 1}")


def _kind(value: Any) -> str:
    return "empty" if value in ({}, [], "") else f"of type {type(value).__name__}"


def _isolate(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _added_tokens(special: dict[str, int], others: dict[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [{"id": id, "content": name, **flags, "special": True} for name, id in special.items()]
    tokens += [{"id": id, "content": name, **flags, "special": False} for name, id in others.items()]
    return sorted(tokens, key=lambda token: int(str(token["id"])))
