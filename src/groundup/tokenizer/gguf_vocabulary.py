"""Tokenizers in GGUF files: the `tokenizer.*` metadata of llama.cpp as one of ours, and back (`gguf_export`).

A GGUF file lists tokens with a type each, and merges (`gpt2`: byte-level BPE) or scores (`llama`: SentencePiece BPE);
how a text is cut stands there as a name only. Facts from llama.cpp, src/llama-vocab.cpp and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.core.errors import TokenizerError, suggest
from groundup.tokenizer.added_tokens import Side
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.bert_text import BertNormalization
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.chat import ChatTemplate
from groundup.tokenizer.gguf_export import KEY, ROLES, TEMPLATE_KEY, TokenType, gguf_from_tokenizer
from groundup.tokenizer.hf_files import BLANK
from groundup.tokenizer.hf_parse import LARGEST_ID, parse_merges, parse_pairs, parse_vocab
from groundup.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE, merges_from_scores
from groundup.tokenizer.wordpiece import INSIDE, WordPiece

__all__ = ["chat_template_from_gguf", "gguf_from_tokenizer", "tokenizer_from_gguf"]

log = logging.getLogger("groundup.tokenizer")

# The parts that llama.cpp assumes where a file does not name them.
_DEFAULT_ROLES = {"llama": {"bos": 1, "eos": 2, "unk": 0}, "bert": {"cls": 101, "sep": 102, "unk": 100, "pad": 0}}
# The files do not say which tokens take whitespace with them, so llama.cpp goes by the name of the model.
_PHI3_KEEPS_BLANKS = ("<unk>", "<s>", "<|endoftext|>")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that the metadata of a GGUF file describes.

    Args:
        metadata: the values by key; arrays as lists or numpy arrays.

    Raises:
        TokenizerError: when a value is missing, of the wrong type or contradicts another, naming the key; or when
            the tokenizer is of a kind that is not known here.
    """
    model = _string(metadata, KEY + "model")
    if model not in _READERS:
        raise TokenizerError(
            f"{KEY}model is {model!r}: byte-level BPE (gpt2), SentencePiece BPE (llama, gemma4) and WordPiece (bert) "
            "can be read"
        )
    vocabulary = _read_vocabulary(metadata, model)
    try:
        return _READERS[model](metadata, vocabulary)
    except TokenizerError as error:
        text = str(error)
        raise (error if text.startswith("tokenizer.") else TokenizerError(f"tokenizer.ggml: {text}")) from None


def chat_template_from_gguf(metadata: Mapping[str, Any]) -> ChatTemplate | None:
    """Return the chat template of a GGUF file, or None when it has none.

    The special tokens that the file names are what the template can read as variables, as in `transformers`.

    Raises:
        TokenizerError: when it is no text or does not compile, or a special token is out of range.
    """
    if TEMPLATE_KEY not in metadata:
        return None
    source = _string(metadata, TEMPLATE_KEY)
    tokens = _strings(metadata, KEY + "tokens") if KEY + "tokens" in metadata else []
    ids = {**_default_roles(str(metadata.get(KEY + "model")), len(tokens)), **_role_ids(metadata, len(tokens))}
    return ChatTemplate(source, variables={f"{role}_token": tokens[id] for role, id in ids.items()})


@dataclass(frozen=True)
class _Vocabulary:
    """The lists of a file, sorted out.

    Attributes:
        tokens: the text of each id.
        types: what each is.
        special, added: tokens that are matched whole, the special ones and the others.
        roles: the text of the token in each role.
    """

    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    added: dict[str, int]
    roles: dict[str, str]

    def ordinary(self) -> dict[str, int]:
        """The tokens that are none of the special ones, also those that no text becomes."""
        found = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        for token in self.special:
            del found[token]
        return found


def _read_vocabulary(metadata: Mapping[str, Any], model: str) -> _Vocabulary:
    tokens = _strings(metadata, KEY + "tokens")
    if not tokens or len(tokens) > LARGEST_ID:
        raise TokenizerError(f"{KEY}tokens has {len(tokens)} tokens: it must be from 1 to {LARGEST_ID}")
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]  # as llama.cpp calls them
    if len(set(tokens)) < len(tokens):
        last = {token: id for id, token in enumerate(tokens)}
        id, token = next((id, token) for id, token in enumerate(tokens) if last[token] != id)
        raise TokenizerError(f"{KEY}tokens: {token!r} has two ids, {id} and {last[token]}")
    types = [int(TokenType.NORMAL)] * len(tokens)
    if KEY + "token_type" in metadata:
        types = _numbers(metadata, KEY + "token_type", len(tokens), (int,))
    named = _role_ids(metadata, len(tokens))
    ids = {**_default_roles(model, len(tokens)), **named}
    if model == "bert" and "bos" in named and "cls" not in named:
        ids["cls"] = named["bos"]
    control, user_defined = int(TokenType.CONTROL), int(TokenType.USER_DEFINED)
    special = {tokens[id]: id for id, kind in enumerate(types) if kind == control}
    added = {tokens[id]: id for id, kind in enumerate(types) if kind == user_defined}
    roles: dict[str, str] = {}
    for role, id in ids.items():
        name = tokens[id]
        if types[id] == TokenType.UNKNOWN or (types[id] == TokenType.NORMAL and _looks_special(name)):
            special[name] = id
        if name in special or name in added:  # padding with an ordinary token is no part of a tokenizer
            roles[role] = name
    return _Vocabulary(tokens, types, special, added, roles)


def _looks_special(name: str) -> bool:
    """Whether a token without a type is one of the special ones that some converters forgot to mark."""
    return len(name) > 2 and (name[0] + name[-1]) in ("<>", "[]")


def _byte_bpe(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> ByteBPE:
    pre = _string(metadata, KEY + "pre") if KEY + "pre" in metadata else None
    if pre is None:
        log.warning("the file names no pre-tokenizer (%spre): 'default' is taken, as llama.cpp does", KEY)
        pre = "default"
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(f"{KEY}pre is {pre!r}, which is not known{suggest(pre, tuple(PRE_TOKENIZERS))}")
    known = PRE_TOKENIZERS[pre]
    ordinary = vocabulary.ordinary()
    for name in vocabulary.added.keys() & ordinary.keys():
        del ordinary[name]
    vocab, unreachable = parse_vocab(ordinary, {}, KEY + "tokens")
    prefix, suffix = _around(metadata, vocabulary, adds_bos=known.adds_bos)
    roles = vocabulary.roles
    return ByteBPE(
        vocab,
        parse_merges(_strings(metadata, KEY + "merges"), KEY + "merges"),
        pattern=pre,
        special_tokens=vocabulary.special,
        added_tokens=vocabulary.added,
        unreachable=unreachable,
        bos=roles.get("bos"),
        eos=roles.get("eos"),
        pad=roles.get("pad"),
        prefix=prefix,
        suffix=suffix,
        ignores_merges=known.ignores_merges,
    )


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> SentencePieceBPE:
    tokens, types = vocabulary.tokens, vocabulary.types
    ordinary = vocabulary.ordinary()
    merges_by_score = KEY + "merges" not in metadata
    if merges_by_score:
        scores = _numbers(metadata, KEY + "scores", len(tokens), (float, int))
        wrong = next((id for id, score in enumerate(scores) if not math.isfinite(score)), None)
        if wrong is not None:
            raise TokenizerError(f"{KEY}scores: the score of {tokens[wrong]!r} (id {wrong}) is {scores[wrong]}")
        may_merge = (TokenType.UNDEFINED, TokenType.NORMAL, TokenType.USER_DEFINED)
        mergeable = {token: id for token, id in ordinary.items() if types[id] in may_merge}
        merges = merges_from_scores(mergeable, {token: float(scores[id]) for token, id in mergeable.items()})
    else:
        merges = parse_pairs(_strings(metadata, KEY + "merges"), KEY + "merges")
    has_blank = _flag(metadata, "add_space_prefix", merges_by_score)
    prefix, suffix = _around(metadata, vocabulary, adds_bos=True)
    return SentencePieceBPE(
        ordinary,
        merges,
        special_tokens=vocabulary.special,
        added_tokens=vocabulary.added,
        strips=_strips(metadata, vocabulary),
        roles={role: name for role, name in vocabulary.roles.items() if role in ("bos", "eos", "pad", "unk")},
        prefix=prefix,
        suffix=suffix,
        blank_first="prepend" if has_blank else "never",
        falls_back_to_bytes=TokenType.BYTE in types,
    )


def _strips(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Side]:
    name = metadata.get("general.name")
    if not isinstance(name, str) or not any(part in name.lower() for part in ("phi-3", "phi3")):
        return {}
    return {token: "right" for token in [*vocabulary.special, *vocabulary.added] if token not in _PHI3_KEEPS_BLANKS}


def _wordpiece(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> WordPiece:
    for role in ("cls", "sep", "unk"):
        if role not in vocabulary.roles:
            raise TokenizerError(f"{KEY}{ROLES[role]} names no special token, and BERT's tokenizer needs one")
    vocab: dict[str, int] = {}
    for token, id in vocabulary.ordinary().items():
        if token in vocabulary.added:
            continue
        is_bracketed = len(token) > 1 and token[0] == "[" and token[-1] == "]"
        written = token if is_bracketed else token[1:] if token[0] == BLANK else INSIDE + token
        if written in vocab:
            raise TokenizerError(f"{KEY}tokens: {token!r} (id {id}) means the same as the token {vocab[written]}")
        vocab[written] = id
    lowercases = _flag(metadata, "normalizer.lowercase", True)
    return WordPiece(
        vocab,
        special_tokens=vocabulary.special,
        added_tokens=vocabulary.added,
        roles={role: name for role, name in vocabulary.roles.items() if role not in ("bos", "eos")},
        prefix=[vocabulary.roles["cls"]],
        suffix=[vocabulary.roles["sep"]],
        normalization=BertNormalization(
            lowercases=lowercases, strips_accents=_flag(metadata, "normalizer.strip_accents", lowercases)
        ),
    )


_READERS = {"gpt2": _byte_bpe, "llama": _sentencepiece, "gemma4": _sentencepiece, "bert": _wordpiece}


def _around(metadata: Mapping[str, Any], vocabulary: _Vocabulary, *, adds_bos: bool) -> tuple[list[str], list[str]]:
    wanted = (("bos", _flag(metadata, "add_bos_token", adds_bos)), ("eos", _flag(metadata, "add_eos_token", False)))
    before, after = ([vocabulary.roles[role]] if adds and role in vocabulary.roles else [] for role, adds in wanted)
    return before, after


def _default_roles(model: str, num_tokens: int) -> dict[str, int]:
    return {role: id for role, id in _DEFAULT_ROLES.get(model, {}).items() if id < num_tokens}


def _role_ids(metadata: Mapping[str, Any], num_tokens: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for role, name in ROLES.items():
        if KEY + name in metadata:
            id = metadata[KEY + name]
            if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < num_tokens:
                raise TokenizerError(f"{KEY}{name} is {id!r}: it must be the id of one of the {num_tokens} tokens")
            found[role] = id
    return found


def _string(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise TokenizerError(f"{key} is {_shown(metadata, key)}: it must be a text")
    return value


def _flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(KEY + name, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{KEY}{name} is {value!r}: it must be true or false")
    return value


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    are_texts = isinstance(value, list | tuple) and all(issubclass(kind, str) for kind in set(map(type, value)))
    if not isinstance(value, list | tuple) or not are_texts:
        raise TokenizerError(f"{key} is {_shown(metadata, key)}: it must be a list of texts")
    return list(value)


def _numbers(metadata: Mapping[str, Any], key: str, count: int, kinds: tuple[type, ...]) -> list[Any]:
    value = metadata.get(key)
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list | tuple) or not set(map(type, value)) <= set(kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TokenizerError(f"{key} is {_shown(metadata, key)}: it must be a list of numbers ({names})")
    if len(value) != count:
        raise TokenizerError(f"{key} has {len(value)} entries for {count} tokens ({KEY}tokens)")
    return list(value)


def _shown(metadata: Mapping[str, Any], key: str) -> str:
    if key not in metadata:
        return "missing"
    value = metadata[key]
    return repr(value)[:60] if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
