"""`tokenizer.json` and `tokenizer_config.json`, as the `tokenizers` and `transformers` libraries read them: writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.core.errors import TokenizerError
from groundup.core.files import write_json
from groundup.tokenizer.byte_level import to_bytes, to_characters

if TYPE_CHECKING:
    from groundup.tokenizer.blanks import BlankFirst
    from groundup.tokenizer.bpe import ByteBPE
    from groundup.tokenizer.characters import CharTokenizer
    from groundup.tokenizer.common import TokenizerBase
    from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE
    from groundup.tokenizer.unigram import Unigram
    from groundup.tokenizer.word_level import WordLevel
    from groundup.tokenizer.wordpiece import WordPiece

ANY_CHARACTER = r"[\s\S]"
#: SentencePiece's sign for a blank, U+2581.
BLANK = "\u2581"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_BPE_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
# What transformers itself writes for "no limit known".
_NO_LIMIT = 1000000000000000019884624838656


def byte_bpe_to_json(tokenizer: ByteBPE) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a byte-level BPE tokenizer."""
    vocab = {to_characters(token): id for token, id in tokenizer.vocab.items()}
    # In the vocabulary too, as in GPT-2's own files: otherwise `tokenizers` numbers them anew after the last token.
    extra = {**tokenizer.unreachable, **tokenizer.special_tokens, **tokenizer.added_tokens}
    twice = next((name for name in extra if name in vocab), None)
    if twice is not None:
        raise TokenizerError(
            f"the special token {twice!r} is also how the token {vocab[twice]} ({to_bytes(twice)!r}) is written in "
            "files: choose another name"
        )
    return _document(
        tokenizer,
        {
            **_BPE_MODEL,
            "ignore_merges": tokenizer.ignores_merges,
            "vocab": _by_id({**vocab, **extra}),
            "merges": [[to_characters(left), to_characters(right)] for left, right in tokenizer.merges],
        },
        normalizer={"type": "NFC"} if tokenizer.normalizes else None,
        pre_tokenizer=_sequence("pretokenizers", [*map(_isolate, tokenizer.pattern.portable), {**_BYTE_LEVEL}]),
        decoder={**_BYTE_LEVEL},
    )


def sentencepiece_to_json(tokenizer: SentencePieceBPE) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a SentencePiece BPE tokenizer."""
    normalizer, pre_tokenizer = _blank_steps(tokenizer.blank_first, tokenizer.splits_at_blanks)
    return _document(
        tokenizer,
        {
            **_BPE_MODEL,
            "unk_token": tokenizer.roles.get("unk"),
            "fuse_unk": True,
            "byte_fallback": tokenizer.falls_back_to_bytes,
            "vocab": _by_id({**tokenizer.vocab, **tokenizer.special_tokens, **tokenizer.added_tokens}),
            "merges": [[left, right] for left, right in tokenizer.merges],
        },
        normalizer=None if not normalizer else normalizer[0] if len(normalizer) == 1 else _normalizers(normalizer),
        pre_tokenizer=pre_tokenizer,
        decoder=_blank_decoder(tokenizer.strips_first_blank),
    )


def unigram_to_json(tokenizer: Unigram) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a Unigram tokenizer.

    Raises:
        TokenizerError: when ids are missing: a token's id is its place in a list.
    """
    scores = {**tokenizer.scores, **tokenizer.special_scores}
    ids = _by_id({**tokenizer.vocab, **tokenizer.special_tokens, **tokenizer.added_tokens})
    missing = next((place for place, id in enumerate(ids.values()) if place != id), None)
    if missing is not None:
        raise TokenizerError(f"no token has the id {missing}: a Unigram file has a token for each id from 0 on")
    blanks, pre_tokenizer = _blank_steps(tokenizer.blank_first, tokenizer.splits_at_blanks)
    if tokenizer.splits_at_whitespace:  # no blank is left to be replaced
        blanks, metaspace = [], _metaspace(tokenizer.blank_first, tokenizer.splits_at_blanks)
        pre_tokenizer = _sequence("pretokenizers", [{"type": "WhitespaceSplit"}, metaspace])
    steps = [*tokenizer.normalizer.steps, *blanks]
    return _document(
        tokenizer,
        {
            "type": "Unigram",
            "unk_id": tokenizer.unknown_id,
            "byte_fallback": tokenizer.falls_back_to_bytes,
            "vocab": [[token, scores.get(token, 0.0)] for token in ids],
        },
        normalizer=_normalizers(steps) if steps else None,
        pre_tokenizer=pre_tokenizer,
        decoder=_blank_decoder(tokenizer.strips_first_blank),
    )


def word_level_to_json(tokenizer: WordLevel) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a word-level tokenizer."""
    return _document(
        tokenizer,
        {
            "type": "WordLevel",
            "vocab": _by_id({**tokenizer.vocab, **tokenizer.special_tokens, **tokenizer.added_tokens}),
            "unk_token": tokenizer.roles["unk"],
        },
        pre_tokenizer={"type": tokenizer.rule},
        decoder=None,
    )


def _blank_steps(blank_first: BlankFirst, splits: bool) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The normalizer's steps and the pre-tokenizer that turn blanks into U+2581 and cut there."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    prepend = {"type": "Prepend", "prepend": BLANK}
    metaspace = _metaspace(blank_first, splits)
    if blank_first == "prepend":
        return [prepend, replace], metaspace if splits else None
    return ([], metaspace) if blank_first != "never" or splits else ([replace], None)


def _metaspace(blank_first: BlankFirst, splits: bool) -> dict[str, Any]:
    scheme = "never" if blank_first == "prepend" else blank_first
    return {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": splits}


def _blank_decoder(strips_first_blank: bool) -> dict[str, Any]:
    back: dict[str, Any] = {"type": "Replace", "pattern": {"String": BLANK}, "content": " "}
    steps: list[dict[str, Any]] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strips_first_blank:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _sequence("decoders", steps)


def _normalizers(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return _sequence("normalizers", steps)


def wordpiece_to_json(tokenizer: WordPiece) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a WordPiece tokenizer."""
    normalization = tokenizer.normalization
    return _document(
        tokenizer,
        {
            "type": "WordPiece",
            "unk_token": tokenizer.roles["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": tokenizer.longest_word,
            "vocab": _by_id({**tokenizer.vocab, **tokenizer.special_tokens, **tokenizer.added_tokens}),
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": normalization.cleans,
            "handle_chinese_chars": normalization.spaces_han,
            "strip_accents": normalization.strips_accents,
            "lowercase": normalization.lowercases,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def characters_to_json(tokenizer: CharTokenizer) -> dict[str, Any]:
    """Return the content of `tokenizer.json` for a character tokenizer: each character is a word."""
    return _document(
        tokenizer,
        {
            "type": "WordLevel",
            "vocab": {**tokenizer.vocab, **tokenizer.special_tokens},
            "unk_token": next(text for text, id in tokenizer.vocab.items() if id == tokenizer.unknown_id),
        },
        pre_tokenizer=_isolate(ANY_CHARACTER),
        decoder={"type": "Fuse"},
    )


def config_json(roles: Mapping[str, str], chat_template: str | None, max_length: int | None) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`.

    The class is named in full: without it a Qwen3 directory silently gets the split pattern of Qwen2.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": roles.get(role) for role in ("bos", "eos", "pad")},
        **{f"{role}_token": name for role, name in roles.items()},
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


def _document(
    tokenizer: TokenizerBase,
    model: dict[str, Any],
    *,
    decoder: dict[str, Any] | None,
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _around(tokenizer),
        "decoder": decoder,
        "model": model,
    }


def _added_tokens(tokenizer: TokenizerBase) -> list[dict[str, Any]]:
    added = tokenizer.added
    tokens = [
        {
            "id": id,
            "content": name,
            "single_word": False,
            "lstrip": added.strips.get(name) in ("left", "both"),
            "rstrip": added.strips.get(name) in ("right", "both"),
            "normalized": False,
            "special": name in added.special,
        }
        for name, id in [*added.special.items(), *added.others.items()]
    ]
    return sorted(tokens, key=lambda token: int(str(token["id"])))


def _around(tokenizer: TokenizerBase) -> dict[str, Any] | None:
    """Return the post-processor that puts the special tokens around a text, or around the two of a pair."""
    if not tokenizer.prefix and not tokenizer.suffix:
        return None

    def stretch(sequence: str, type_id: int, prefix: tuple[str, ...]) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": name, "type_id": type_id}} for name in names]
            for names in (prefix, tokenizer.suffix)
        )
        return [*before, {"Sequence": {"id": sequence, "type_id": type_id}}, *after]

    first = stretch("A", 0, tokenizer.prefix)
    # BERT: [CLS] A [SEP] B [SEP]; a bos token stands before each of the two texts.
    second = stretch("B", 1, () if "cls" in tokenizer.roles else tokenizer.prefix)
    names = dict.fromkeys([*tokenizer.prefix, *tokenizer.suffix])
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {name: {"id": name, "ids": [tokenizer.added.ids[name]], "tokens": [name]} for name in names},
    }


def _by_id(vocab: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def _sequence(key: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", key: steps}


def _isolate(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
