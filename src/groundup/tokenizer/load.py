"""Reading a tokenizer from a folder in the Hugging Face layout, and saying what is wrong when it does not fit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import regex

from groundup.core.errors import TokenizerError
from groundup.core.files import read_json
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.bert_text import BertNormalization
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.characters import UNKNOWN, CharTokenizer
from groundup.tokenizer.hf_files import ANY_CHARACTER
from groundup.tokenizer.hf_parse import (
    Config,
    check_id,
    describe,
    parse_merges,
    parse_pairs,
    parse_vocab,
    parse_words,
    read_added,
    read_around,
    read_config,
)
from groundup.tokenizer.load_parts import check_sentencepiece_decoder, kind_of, read_blanks, steps_of
from groundup.tokenizer.load_schools import read_unigram, read_word_level
from groundup.tokenizer.pre_tokenizers import COVERING, GPT2
from groundup.tokenizer.sentencepiece_bpe import SentencePieceBPE
from groundup.tokenizer.wordpiece import WordPiece

log = logging.getLogger("groundup.tokenizer")

_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"


def load_tokenizer(folder: Path, *, vocab_size: int | None = None) -> Tokenizer:
    """Read `tokenizer.json` (and `tokenizer_config.json` where it is there) from a model directory.

    Besides our own files this reads those of the Hugging Face hub that hold byte-level BPE (GPT-2, Llama 3, Qwen,
    SmolLM), SentencePiece BPE (Llama 2, Mistral, Phi-3, Gemma), WordPiece (BERT), Unigram (T5, ALBERT, XLNet) or words,
    and a folder with BERT's `vocab.txt` alone. What a model expects around a text is known afterwards (`prefix_ids`, `suffix_ids`) and never
    added by `encode`.

    Args:
        folder: the model directory (the path of a `tokenizer.json` is taken too).
        vocab_size: ids of the model; added tokens beyond them are left out with a warning. Some published files have
            them: Gemma 3 1B's names a token for images, others a `[PAD]` that the model was never given.

    Raises:
        TokenizerError: when a file is missing or malformed, or describes a tokenizer of another kind.
    """
    folder = Path(folder)
    path = folder if folder.name == "tokenizer.json" else folder / "tokenizer.json"
    config = read_config(path.parent)
    if not path.is_file():
        if path.with_name("vocab.txt").is_file() and not folder.name.endswith(".json"):
            return _read_vocab_txt(path.with_name("vocab.txt"), config)
        raise TokenizerError(_missing(path, folder))
    data = read_json(path, TokenizerError)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise TokenizerError(f"{path} is no tokenizer: it must be a JSON object with a 'model'")
    if vocab_size is not None:
        data, config = _within(data, config, vocab_size, str(path))
    kind = data["model"].get("type", "BPE" if "merges" in data["model"] else None)
    try:
        if kind == "BPE":
            is_byte_level = "ByteLevel" in (
                kind_of(data.get("decoder")),
                *map(kind_of, steps_of(data.get("pre_tokenizer"))),
            )
            return (_read_byte_bpe if is_byte_level else _read_sentencepiece)(data, config, str(path))
        if kind == "WordPiece":
            return _read_wordpiece(data, config, str(path))
        if kind == "Unigram":
            return read_unigram(data, config, str(path))
        if kind == "WordLevel":
            are_characters = _pattern_of(data.get("pre_tokenizer")) == {"Regex": ANY_CHARACTER}
            return (_read_characters if are_characters else read_word_level)(data, config, str(path))
    except TokenizerError as error:
        text = str(error)
        raise (error if text.startswith(str(path)) else TokenizerError(f"{path}: {text}")) from None
    raise TokenizerError(f"{path}: the model is of type {kind!r}; BPE, WordPiece, Unigram and WordLevel can be read")


def _within(data: dict[str, Any], config: Config, vocab_size: int, where: str) -> tuple[dict[str, Any], Config]:
    """Leave out the added tokens whose ids a model does not have."""
    added = [token for token in data.get("added_tokens") or () if isinstance(token, dict)]
    beyond = {
        str(token.get("content")): token["id"]
        for token in added
        if isinstance(token.get("id"), int) and token["id"] >= vocab_size
    }
    if not beyond:
        return data, config
    shown = ", ".join(list(beyond)[:5]) + (", ..." if len(beyond) > 5 else "")
    log.warning("%s: %s lie beyond the %d ids of the model and were left out", where, shown, vocab_size)
    model = dict(data["model"])
    if isinstance(model.get("vocab"), list):
        model["vocab"] = [
            entry for entry in model["vocab"] if not (isinstance(entry, list) and entry[:1] and entry[0] in beyond)
        ]
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {name: id for name, id in model["vocab"].items() if name not in beyond}
    kept = [
        token for token in data["added_tokens"] if not isinstance(token, dict) or token.get("content") not in beyond
    ]
    roles = {role: name for role, name in config.roles.items() if name not in beyond}
    return {**data, "model": model, "added_tokens": kept}, replace(config, roles=roles)


def _missing(path: Path, folder: Path) -> str:
    if path.with_name("tokenizer.model").is_file():
        return (
            f"{path} does not exist, only tokenizer.model: write it with transformers, "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    return f"{path} does not exist: a tokenizer is a folder with tokenizer.json" + (
        "" if folder.exists() else f", and {folder} is not there"
    )


def _read_byte_bpe(data: dict[str, Any], config: Config, where: str) -> ByteBPE:
    model = data["model"]
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout", "unk_token"):
        if model.get(key):
            raise TokenizerError(f"{where}: the BPE model has {key} = {model[key]!r}, which byte-level BPE has not")
    added = read_added(data.get("added_tokens"), where)
    decoder = data.get("decoder")
    if kind_of(decoder) != "ByteLevel":
        raise TokenizerError(f"{where}: the decoder is {describe(decoder)}, not ByteLevel: this is not byte-level BPE")
    prefix, suffix = read_around(data.get("post_processor"), config, added.ids, where)
    roles = config.known_roles(("bos", "eos", "pad"), added.ids)
    vocab, unreachable = parse_vocab(model.get("vocab"), added.ids, where)
    return ByteBPE(
        vocab,
        parse_merges(model.get("merges"), where),
        pattern=_read_pattern(data.get("pre_tokenizer"), where),
        special_tokens=added.special,
        added_tokens=added.others,
        unreachable=unreachable,
        strips=added.strips,
        bos=roles["bos"],
        eos=roles["eos"],
        pad=roles["pad"],
        prefix=prefix,
        suffix=suffix,
        ignores_merges=bool(model.get("ignore_merges", False)),
        normalizes=_reads_nfc(data.get("normalizer"), where),
    )


def _read_sentencepiece(data: dict[str, Any], config: Config, where: str) -> SentencePieceBPE:
    model = data["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges"):
        if model.get(key):
            raise TokenizerError(f"{where}: the BPE model has {key} = {model[key]!r}, which cannot be read")
    if not model.get("fuse_unk") and not model.get("byte_fallback"):
        raise TokenizerError(f"{where}: fuse_unk is off: unknown characters in a row are one unknown token here")
    added = read_added(data.get("added_tokens"), where)
    blank_first, splits = read_blanks(data, where)
    check_sentencepiece_decoder(data.get("decoder"), blank_first != "never", where)
    prefix, suffix = read_around(data.get("post_processor"), config, added.ids, where)
    words = parse_words(model.get("vocab"), added.ids, where)
    unk = model.get("unk_token")
    if not isinstance(unk, str | None):
        raise TokenizerError(f"{where}: unk_token is {unk!r}; it must be the text of a token")
    return SentencePieceBPE(
        {word: id for word, id in words.items() if word not in added.special},
        parse_pairs(model.get("merges"), where),
        special_tokens=added.special,
        added_tokens=added.others,
        strips=added.strips,
        roles={**config.known_roles(("bos", "eos", "pad"), added.ids), "unk": unk},
        prefix=prefix,
        suffix=suffix,
        blank_first=blank_first,
        splits_at_blanks=splits,
        falls_back_to_bytes=bool(model.get("byte_fallback")),
    )


def _read_wordpiece(data: dict[str, Any], config: Config, where: str) -> WordPiece:
    model, normalizer, pre = data["model"], data.get("normalizer"), data.get("pre_tokenizer")
    added = read_added(data.get("added_tokens"), where)
    if not isinstance(normalizer, dict) or (kind_of(normalizer), kind_of(pre)) != (
        "BertNormalizer",
        "BertPreTokenizer",
    ):
        raise TokenizerError(
            f"{where}: WordPiece is read with BertNormalizer and BertPreTokenizer, "
            f"not with {describe(normalizer)} and {describe(pre)}"
        )
    if model.get("continuing_subword_prefix", "##") != "##":
        raise TokenizerError(
            f"{where}: the parts inside a word begin with {model['continuing_subword_prefix']!r}, not with '##'"
        )
    flags = {key: normalizer.get(key, True) for key in ("clean_text", "handle_chinese_chars", "lowercase")}
    flags["strip_accents"] = normalizer.get("strip_accents")
    wrong = next((key for key, flag in flags.items() if not isinstance(flag, bool | None)), None)
    longest = model.get("max_input_chars_per_word", 100)
    if wrong or not isinstance(longest, int) or not 0 < longest < 1 << 20:
        found = {**flags, "max_input_chars_per_word": longest}[wrong or "max_input_chars_per_word"]
        raise TokenizerError(f"{where}: {wrong or 'max_input_chars_per_word'} is {found!r}, which makes no sense")
    prefix, suffix = read_around(data.get("post_processor"), config, added.ids, where)
    words = parse_words(model.get("vocab"), added.ids, where)
    roles = config.known_roles(("bos", "eos", "pad", "cls", "sep", "mask"), added.ids)
    return WordPiece(
        {word: id for word, id in words.items() if word not in added.ids},
        special_tokens=added.special,
        added_tokens=added.others,
        strips=added.strips,
        roles={**roles, "unk": str(model.get("unk_token", "[UNK]"))},
        prefix=prefix,
        suffix=suffix,
        normalization=BertNormalization(
            cleans=bool(flags["clean_text"]),
            spaces_han=bool(flags["handle_chinese_chars"]),
            strips_accents=flags["strip_accents"],
            lowercases=bool(flags["lowercase"]),
        ),
        longest_word=longest,
    )


def _read_vocab_txt(path: Path, config: Config) -> WordPiece:
    values = config.values
    accents = values.get("strip_accents")
    return WordPiece.from_vocab_txt(
        path,
        roles=config.roles,
        normalization=BertNormalization(
            spaces_han=values.get("tokenize_chinese_chars", True) is not False,
            strips_accents=accents if isinstance(accents, bool) else None,
            lowercases=values.get("do_lower_case", True) is not False,
        ),
    )


def _pattern_of(pre: Any) -> Any:
    return pre.get("pattern") if isinstance(pre, dict) else None


def _read_characters(data: dict[str, Any], config: Config, where: str) -> CharTokenizer:
    model = data["model"]
    if data.get("normalizer"):
        raise TokenizerError(
            f"{where}: a character tokenizer has no normalizer; this one has {describe(data['normalizer'])}"
        )
    added = read_added(data.get("added_tokens"), where)
    special, vocab = added.special, model.get("vocab")
    if not isinstance(vocab, dict):
        raise TokenizerError(f"{where}: the vocabulary is {describe(vocab)}, not a table of tokens and their ids")
    for token, id in [*vocab.items(), *special.items()]:
        check_id(token, id, where)
    ordinary = sorted((token for token in vocab if token not in special), key=lambda token: int(vocab[token]))
    names = sorted(special, key=lambda name: special[name])
    if model.get("unk_token") != UNKNOWN or UNKNOWN not in ordinary or added.others:
        raise TokenizerError(f"{where}: a character tokenizer writes unknown characters as U+FFFD; this one does not")
    tokenizer = CharTokenizer(ordinary, special_tokens=names)
    expected = {**vocab, **special}
    wrong = next((t for t, id in {**tokenizer.vocab, **tokenizer.special_tokens}.items() if expected[t] != id), None)
    if wrong is not None:
        raise TokenizerError(
            f"{where}: the ids are not 0, 1, 2, ... with the special tokens last: {wrong!r} has the id {expected[wrong]}"
        )
    for role, name in config.known_roles(("bos", "eos", "pad"), special).items():
        if name != tokenizer.roles.get(role):
            raise TokenizerError(
                f"{where}: {role} is {name!r} in tokenizer_config.json; "
                f"a character tokenizer has {tokenizer.roles.get(role)!r}"
            )
    return tokenizer


def _read_pattern(pre: Any, where: str) -> list[str]:
    """Return the regular expressions that cut a text, one after the other."""
    steps = steps_of(pre)
    kinds = [kind_of(step) for step in steps]
    sources = [_split_source(step) for step in steps[:-1]]
    if not steps or kinds[-1] != "ByteLevel" or None in sources:
        raise TokenizerError(
            f"{where}: the pre-tokenizer {kinds} is not one that can be read: ByteLevel last, and before it Split "
            "(Isolated), Digits or Punctuation"
        )
    if steps[-1].get("add_prefix_space"):
        raise TokenizerError(f"{where}: add_prefix_space puts a blank before every text: this cannot be read")
    found = [source for source in sources if source is not None]
    return [*found, GPT2] if steps[-1].get("use_regex", True) else found


def _split_source(step: dict[str, Any]) -> str | None:
    kind, behavior = step.get("type"), step.get("behavior")
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind == "Punctuation" and behavior in ("Isolated", "Contiguous"):
        return _PUNCTUATION + ("+" if behavior == "Contiguous" else "")
    pattern = step.get("pattern")
    if kind != "Split" or not isinstance(pattern, dict) or len(pattern) != 1:
        return None
    source = pattern.get("Regex")
    if isinstance(pattern.get("String"), str):
        source = regex.escape(pattern["String"])
    if not isinstance(source, str):
        return None
    # To keep what matches and drop the rest is the same where there is no rest (Phi-4, OLMo 2).
    keeps = behavior == "Removed" and bool(step.get("invert")) and source in COVERING
    return source if keeps or (behavior == "Isolated" and not step.get("invert")) else None


def _reads_nfc(normalizer: Any, where: str) -> bool:
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if isinstance(normalizer, dict) and normalizer.get("type") == "NFC":
        return True
    raise TokenizerError(f"{where}: the normalizer {describe(normalizer)} cannot be read; none and NFC can")
