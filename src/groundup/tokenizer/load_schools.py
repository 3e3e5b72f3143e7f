"""Reading `tokenizer.json` files of the types Unigram and WordLevel."""

from __future__ import annotations

import math
from typing import Any

from groundup.core.errors import TokenizerError
from groundup.tokenizer.hf_files import BLANK
from groundup.tokenizer.hf_parse import Config, describe, parse_words, read_added, read_around
from groundup.tokenizer.load_parts import check_sentencepiece_decoder, kind_of, read_blanks, replacement, steps_of
from groundup.tokenizer.normalizers import Normalizer
from groundup.tokenizer.unigram import Unigram
from groundup.tokenizer.word_level import WORD_RULES, WordLevel

_ROLES = ("bos", "eos", "pad", "cls", "sep", "mask")


def read_unigram(data: dict[str, Any], config: Config, where: str) -> Unigram:
    """Read a Unigram tokenizer (T5, ALBERT, XLNet, XLM-R and ours).

    Raises:
        TokenizerError: when a part is malformed or of a kind that is not known.
    """
    model = data["model"]
    tokens = _scored_tokens(model.get("vocab"), where)
    added = read_added(data.get("added_tokens"), where)
    ids = {token: id for id, (token, _) in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for id, (token, _) in enumerate(tokens) if ids[token] != id)
        raise TokenizerError(f"{where}: the token {twice!r} stands twice in the vocabulary")
    parse_words(ids, added.ids, where)
    unknown = model.get("unk_id")
    if not isinstance(unknown, int) or isinstance(unknown, bool) or not 0 <= unknown < len(tokens):
        raise TokenizerError(f"{where}: unk_id is {unknown!r}: it must be the place of a token among {len(tokens)}")
    # Some files list the unknown token nowhere but in the vocabulary; no text becomes it either way.
    special = {**added.special, tokens[unknown][0]: unknown}
    others = {name: id for name, id in added.others.items() if name not in special}
    around, words_first, steps = _text_steps(data, where)
    blank_first, splits = read_blanks(around, where)
    check_sentencepiece_decoder(data.get("decoder"), blank_first != "never", where)
    prefix, suffix = read_around(data.get("post_processor"), config, {**others, **special}, where)
    return Unigram(
        {token: score for token, score in tokens if token not in special},
        {token: id for token, id in ids.items() if token not in special},
        special_tokens=special,
        added_tokens=others,
        strips=added.strips,
        roles={**config.known_roles(_ROLES, {**others, **special}), "unk": tokens[unknown][0]},
        prefix=prefix,
        suffix=suffix,
        blank_first=blank_first,
        splits_at_blanks=splits,
        splits_at_whitespace=words_first,
        falls_back_to_bytes=bool(model.get("byte_fallback", False)),
        normalizer=Normalizer(steps, where),
        special_scores={token: score for token, score in tokens if token in special},
    )


def _scored_tokens(vocab: Any, where: str) -> list[tuple[str, float]]:
    if not isinstance(vocab, list) or not vocab:
        raise TokenizerError(f"{where}: the vocabulary is {describe(vocab)}, not a list of tokens and their scores")
    for id, entry in enumerate(vocab):
        is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and entry[0]
        if not is_pair or isinstance(entry[1], bool) or not isinstance(entry[1], int | float):
            raise TokenizerError(f"{where}: entry {id} of the vocabulary is {entry!r}, not a token and its score")
        if not math.isfinite(entry[1]):
            raise TokenizerError(
                f"{where}: the token {entry[0]!r} has the score {entry[1]!r}: it must be a finite number"
            )
    return [(token, float(score)) for token, score in vocab]


def _text_steps(data: dict[str, Any], where: str) -> tuple[dict[str, Any], bool, list[dict[str, Any]]]:
    """Take apart what happens before the model.

    Returns:
        The parts that deal with blanks, whether the text is cut at all whitespace first, and the other steps.
    """
    steps = steps_of(data.get("normalizer"), "normalizers")
    pre = steps_of(data.get("pre_tokenizer"))
    words_first = [kind_of(step) for step in pre[:1]] == ["WhitespaceSplit"]
    kept = pre[1:] if words_first else pre
    if len(kept) > 1 or (words_first and not kept):
        raise TokenizerError(
            f"{where}: the pre-tokenizer {[kind_of(step) for step in pre]} is not one that can be read: "
            "Unigram has Metaspace, or WhitespaceSplit and Metaspace"
        )
    blanks = [
        step
        for step in steps
        if (kind_of(step) == "Prepend" and step.get("prepend") == BLANK) or step == replacement(" ", BLANK)
    ]
    others = [step for step in steps if step not in blanks]
    if steps != [*others, *blanks]:
        raise TokenizerError(f"{where}: the normalizer changes the text again after it marked the blanks")
    around = {
        "normalizer": {"type": "Sequence", "normalizers": blanks} if blanks else None,
        "pre_tokenizer": kept[0] if kept else None,
    }
    return around, words_first, others


def read_word_level(data: dict[str, Any], config: Config, where: str) -> WordLevel:
    """Read a word-level tokenizer.

    Raises:
        TokenizerError: when a part is malformed or of a kind that is not known.
    """
    model, rule = data["model"], kind_of(data.get("pre_tokenizer"))
    if rule not in WORD_RULES or data.get("normalizer"):
        raise TokenizerError(
            f"{where}: a WordLevel model is read without a normalizer and where its words are single characters, or "
            f"those of {', '.join(WORD_RULES)}; here they are those of {describe(data.get('pre_tokenizer'))}"
        )
    if kind_of(data.get("decoder")) not in (None, "WordPiece"):
        raise TokenizerError(f"{where}: the decoder {describe(data['decoder'])} cannot be read: WordLevel has none")
    added = read_added(data.get("added_tokens"), where)
    prefix, suffix = read_around(data.get("post_processor"), config, added.ids, where)
    words = parse_words(model.get("vocab"), added.ids, where)
    unknown = model.get("unk_token")
    if not isinstance(unknown, str) or (unknown not in added.ids and unknown not in words):
        raise TokenizerError(f"{where}: unk_token is {unknown!r}; it must be the text of a token")
    special = {**added.special, unknown: added.ids.get(unknown, words.get(unknown, 0))}
    others = {name: id for name, id in added.others.items() if name not in special}
    return WordLevel(
        {word: id for word, id in words.items() if word not in special and word not in others},
        special_tokens=special,
        added_tokens=others,
        strips=added.strips,
        roles={**config.known_roles(_ROLES, {**others, **special}), "unk": unknown},
        prefix=prefix,
        suffix=suffix,
        rule=rule,
    )
