"""The `tokenizer.*` metadata of a GGUF file for a tokenizer, so that llama.cpp gives the same ids.

Each value comes with the name of its type in the file (`u32`, `bool`, `string`, `[string]`, `[i32]`, `[f32]`), as the
writer of GGUF files takes them. Facts from llama.cpp, src/llama-vocab.cpp and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from groundup.core.errors import TokenizerError, suggest
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.byte_level import to_characters
from groundup.tokenizer.common import TokenizerBase
from groundup.tokenizer.hf_files import BLANK
from groundup.tokenizer.patterns import split
from groundup.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE, merges_from_scores
from groundup.tokenizer.wordpiece import INSIDE, WordPiece

KEY = "tokenizer.ggml."
TEMPLATE_KEY = "tokenizer.chat_template"
#: The keys of the tokens that play a part (the third is misspelt in all files), for `TokenizerBase.roles`.
ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "cls": "cls_token_id",
}
log = logging.getLogger("groundup.tokenizer")

# Below every score of a merge, so that llama.cpp, which would merge up to any token, comes to these last.
_LOWEST_SCORE = -1e9

#: A value and the name of its type.
TypedValue = tuple[str, Any]


class TokenType(IntEnum):
    """What kind of token a row of the vocabulary is (`tokenizer.ggml.token_type`)."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def gguf_from_tokenizer(
    tokenizer: Tokenizer, chat_template: str | None = None, *, pre: str | None = None
) -> dict[str, TypedValue]:
    """Return the metadata with which llama.cpp tokenizes as `tokenizer` does.

    Args:
        tokenizer: byte-level BPE, SentencePiece BPE or WordPiece.
        chat_template: Jinja source, written as it is.
        pre: for byte-level BPE: write this name of a pre-tokenizer instead of the one that splits alike.

    Returns:
        For each key the name of its type and its value: arrays of numbers as numpy arrays, of strings as lists.

    Raises:
        TokenizerError: when llama.cpp has no equal of the tokenizer, saying what is missing.
    """
    if isinstance(tokenizer, ByteBPE):
        values = _byte_bpe(tokenizer, pre)
    elif isinstance(tokenizer, SentencePieceBPE):
        values = _sentencepiece(tokenizer)
    elif isinstance(tokenizer, WordPiece):
        values = _wordpiece(tokenizer)
    else:
        raise TokenizerError(
            f"llama.cpp has no tokenizer like {type(tokenizer).__name__}: "
            "train one of byte-level BPE (groundup tokenizer train)"
        )
    for reason in _unsayable(tokenizer):
        log.warning("a GGUF file cannot say that %s: llama.cpp gives other ids where that matters", reason)
    for role, name in ROLES.items():
        id = tokenizer.role_id(role)
        if id is not None:
            values[KEY + name] = ("u32", id)
    if chat_template is not None:
        values[TEMPLATE_KEY] = ("string", chat_template)
    return values


def pre_tokenizer_name(tokenizer: ByteBPE) -> str:
    """Return the name under which llama.cpp cuts texts as `tokenizer` does.

    Raises:
        TokenizerError: when there is none.
    """
    names = [name for name, known in PRE_TOKENIZERS.items() if known.steps == tokenizer.pattern.portable]
    for name in names:
        if PRE_TOKENIZERS[name].ignores_merges == tokenizer.ignores_merges or _merges_reach_all(tokenizer):
            return name
    if tokenizer.pattern.name == "gpt4":
        raise TokenizerError(
            "llama.cpp has no pre-tokenizer like gpt4, which alone keeps the blanks and line ends at the end of a "
            "text in one piece: train with the pattern llama3, or give pre='llama-bpe' to take the nearest one "
            "(other ids only where a text ends in several of them)"
        )
    shown = " then ".join(map(repr, tokenizer.pattern.portable)) or "none"
    reason = f"only with other rules for whole words ({', '.join(names)})" if names else "none like it"
    raise TokenizerError(
        f"the split pattern {tokenizer.pattern.name} ({shown[:200]}) has no name in llama.cpp: it has {reason}. "
        "Train with gpt2 or llama3, or give pre= one of " + ", ".join(sorted(PRE_TOKENIZERS))
    )


def _merges_reach_all(tokenizer: ByteBPE) -> bool:
    """Whether every token that is one piece of text comes out of the merges, so that looking it up changes nothing."""
    for token, id in tokenizer.vocab.items():
        text = token.decode("utf-8", "ignore")
        is_piece = text.encode() == token and split(text, tokenizer.pattern) == [text]
        if is_piece and tokenizer.merge(token) != [id]:
            return False
    return True


def _byte_bpe(tokenizer: ByteBPE, pre: str | None) -> dict[str, TypedValue]:
    if pre is not None and pre not in PRE_TOKENIZERS:
        raise TokenizerError(f"llama.cpp has no pre-tokenizer named {pre!r}{suggest(pre, tuple(PRE_TOKENIZERS))}")
    ordinary = {to_characters(token): id for token, id in tokenizer.vocab.items()} | tokenizer.unreachable
    merges = [f"{to_characters(left)} {to_characters(right)}" for left, right in tokenizer.merges]
    return {
        **_vocabulary("gpt2", tokenizer, ordinary),
        KEY + "pre": ("string", pre_tokenizer_name(tokenizer) if pre is None else pre),
        KEY + "merges": ("[string]", merges),
        **_around(tokenizer),
    }


def _sentencepiece(tokenizer: SentencePieceBPE) -> dict[str, TypedValue]:
    if tokenizer.splits_at_blanks:
        raise TokenizerError("llama.cpp cannot split at every blank, as this tokenizer does (Metaspace's split)")
    vocab = tokenizer.vocab
    ranks: dict[str, int] = {}
    for left, right in tokenizer.merges:
        ranks.setdefault(left + right, len(ranks))
    scores = {token: -float(ranks[token]) if token in ranks else _LOWEST_SCORE for token in vocab}
    # SentencePiece joins any two tokens that make a third; a list of merges can leave some of them out.
    mergeable = {token: id for token, id in vocab.items() if not tokenizer.is_byte(token)}
    implied = merges_from_scores(mergeable, scores)
    extra = set(implied).symmetric_difference(tokenizer.merges)
    order = [left + right for left, right in tokenizer.merges]
    if extra or order != [left + right for left, right in implied]:
        left, right = min(extra, default=("", ""))
        example = f" (for example {left!r} + {right!r})" if extra else ""
        raise TokenizerError(
            f"the merges cannot be written as scores, which llama.cpp needs: {len(extra)} of the joins are not those "
            f"that the vocabulary implies{example}, or their order is not that of the tokens"
        )
    kinds = {id: TokenType.BYTE for token, id in vocab.items() if tokenizer.is_byte(token)}
    values = _vocabulary("llama", tokenizer, vocab, kinds)
    by_id = {id: scores[token] for token, id in vocab.items() if token in ranks}
    rows = [by_id.get(id, _LOWEST_SCORE) for id in range(tokenizer.vocab_size)]
    return {
        **values,
        KEY + "pre": ("string", "default"),
        KEY + "scores": ("[f32]", np.asarray(rows, dtype=np.float32)),
        KEY + "add_space_prefix": ("bool", tokenizer.blank_first != "never"),
        **_around(tokenizer),
    }


def _wordpiece(tokenizer: WordPiece) -> dict[str, TypedValue]:
    how = tokenizer.normalization
    if not how.cleans or not how.spaces_han:
        raise TokenizerError("llama.cpp always cleans texts and sets Chinese characters apart; this tokenizer does not")
    if tokenizer.prefix != (tokenizer.roles.get("cls"),) or tokenizer.suffix != (tokenizer.roles.get("sep"),):
        raise TokenizerError(
            f"llama.cpp puts cls before a text and sep after it; this tokenizer puts {tokenizer.prefix} and "
            f"{tokenizer.suffix} there"
        )
    ordinary = {_phantom_blank(token): id for token, id in tokenizer.vocab.items()}
    cls = tokenizer.role_id("cls")
    return {
        **_vocabulary("bert", tokenizer, ordinary),
        KEY + "pre": ("string", "default"),
        KEY + "token_type_count": ("u32", 2),
        KEY + "bos_token_id": ("u32", cls),
        KEY + "normalizer.lowercase": ("bool", how.lowercases),
        KEY + "normalizer.strip_accents": (
            "bool",
            how.lowercases if how.strips_accents is None else how.strips_accents,
        ),
    }


def _phantom_blank(token: str) -> str:
    """Write a WordPiece token as llama.cpp does: U+2581 where a word begins instead of `##` where it goes on."""
    if token.startswith("[") and token.endswith("]") and len(token) > 1:
        return token  # [unused0] and its like, which no text becomes
    return token.removeprefix(INSIDE) if token.startswith(INSIDE) else BLANK + token


def _vocabulary(
    model: str, tokenizer: TokenizerBase, ordinary: Mapping[str, int], kinds: Mapping[int, TokenType] | None = None
) -> dict[str, TypedValue]:
    names = {id: name for name, id in ordinary.items()} | {id: name for name, id in tokenizer.added.ids.items()}
    types = dict.fromkeys(names, TokenType.NORMAL) | dict(kinds or {})
    types |= dict.fromkeys(tokenizer.added_tokens.values(), TokenType.USER_DEFINED)
    types |= dict.fromkeys(tokenizer.special_tokens.values(), TokenType.CONTROL)
    unknown = tokenizer.role_id("unk")
    if unknown is not None and model == "llama":
        types[unknown] = TokenType.UNKNOWN
    rows = range(tokenizer.vocab_size)
    tokens = [names.get(id, f"[PAD{id}]") for id in rows]
    repeated = {token: id for id, token in enumerate(tokens)}
    if len(repeated) < len(tokens):
        token, id = next((token, id) for id, token in enumerate(tokens) if repeated[token] != id)
        raise TokenizerError(f"the tokens {id} and {repeated[token]} are both written {token!r} in a GGUF file")
    return {
        KEY + "model": ("string", model),
        KEY + "tokens": ("[string]", tokens),
        KEY + "token_type": ("[i32]", np.asarray([types.get(id, TokenType.UNUSED) for id in rows], dtype=np.int32)),
    }


def _unsayable(tokenizer: TokenizerBase) -> Iterator[str]:
    """What makes ids and has no key in a file."""
    if tokenizer.added.strips:
        yield "tokens take whitespace with them"
    if isinstance(tokenizer, ByteBPE) and tokenizer.normalizes:
        yield "texts are brought to NFC first"
    if isinstance(tokenizer, SentencePieceBPE) and tokenizer.blank_first == "first":
        yield "a blank is put before the first word of a text only, not after a special token"
    if isinstance(tokenizer, SentencePieceBPE) and tokenizer.blank_first == "always":
        yield "no blank is put before a text that begins with one"


def _around(tokenizer: TokenizerBase) -> dict[str, TypedValue]:
    """Return whether bos and eos are put around a text; llama.cpp can put nothing else there."""
    if tokenizer.prefix not in ((), (tokenizer.bos,)) or tokenizer.suffix not in ((), (tokenizer.eos,)):
        raise TokenizerError(
            f"llama.cpp can put bos ({tokenizer.bos!r}) before a text and eos ({tokenizer.eos!r}) after it; this "
            f"tokenizer puts {tokenizer.prefix} and {tokenizer.suffix} there"
        )
    return {
        KEY + "add_bos_token": ("bool", tokenizer.adds_bos),
        KEY + "add_eos_token": ("bool", tokenizer.adds_eos),
    }
