"""Reading a tokenizer from a folder in the Hugging Face layout, and saying what is wrong when it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core.errors import TokenizerError
from groundup.core.files import read_json
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.characters import UNKNOWN, CharTokenizer
from groundup.tokenizer.hf_files import ANY_CHARACTER, check_id, parse_merges, parse_vocab
from groundup.tokenizer.patterns import PATTERNS

# Old GPT-2 folders leave it to the class to know its tokens.
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json` (and `tokenizer_config.json` where it is there) from a model directory.

    Besides our own files this reads the byte-level BPE files of the Hugging Face hub that split by one pattern:
    GPT-2, Llama 3, Qwen and their like. What such a file adds around a text (bos) is kept but never added by
    `encode`.

    Args:
        folder: the model directory (the path of a `tokenizer.json` is taken too).

    Raises:
        TokenizerError: when a file is missing or malformed, or describes a tokenizer of another kind.
    """
    folder = Path(folder)
    path = folder if folder.name == "tokenizer.json" else folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(
            f"{path} does not exist: a tokenizer is a folder with tokenizer.json"
            + ("" if folder.exists() else f", and {folder} is not there")
        )
    data = read_json(path, TokenizerError)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise TokenizerError(f"{path} is no tokenizer: it must be a JSON object with a 'model'")
    roles = _read_roles(path.with_name("tokenizer_config.json"))
    kind = data["model"].get("type", "BPE" if "merges" in data["model"] else None)
    try:
        if kind == "BPE":
            return _read_bpe(data, roles, str(path))
        if kind == "WordLevel":
            return _read_characters(data, roles, str(path))
    except TokenizerError as error:
        text = str(error)
        raise (error if text.startswith(str(path)) else TokenizerError(f"{path}: {text}")) from None
    raise TokenizerError(f"{path}: the model is of type {kind!r}; byte-level BPE and our character files can be read")


def _read_bpe(data: dict[str, Any], roles: dict[str, str | None], where: str) -> ByteBPE:
    model = data["model"]
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout", "unk_token"):
        if model.get(key):
            raise TokenizerError(f"{where}: the BPE model has {key} = {model[key]!r}, which byte-level BPE has not")
    special, others = _read_added(data.get("added_tokens"), where)
    decoder = data.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise TokenizerError(f"{where}: the decoder is {_type(decoder)}, not ByteLevel: this is not byte-level BPE")
    post_processor = data.get("post_processor")
    return ByteBPE(
        parse_vocab(model.get("vocab"), special | others, where),
        parse_merges(model.get("merges"), where),
        pattern=_read_pattern(data.get("pre_tokenizer"), where),
        special_tokens=special,
        added_tokens=others,
        bos=_known(roles["bos"], special | others),
        eos=_known(roles["eos"], special | others),
        pad=_known(roles["pad"], special | others),
        ignores_merges=bool(model.get("ignore_merges", False)),
        normalizes=_reads_nfc(data.get("normalizer"), where),
        post_processor=post_processor if isinstance(post_processor, dict) else None,
    )


def _read_characters(data: dict[str, Any], roles: dict[str, str | None], where: str) -> CharTokenizer:
    model, pre = data["model"], data.get("pre_tokenizer")
    if not isinstance(pre, dict) or pre.get("pattern") != {"Regex": ANY_CHARACTER} or data.get("normalizer"):
        raise TokenizerError(f"{where}: a WordLevel model is read only where its words are single characters")
    special, others = _read_added(data.get("added_tokens"), where)
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise TokenizerError(f"{where}: the vocabulary is {_type(vocab)}, not a table of tokens and their ids")
    for token, id in [*vocab.items(), *special.items()]:
        check_id(token, id, where)
    ordinary = sorted((token for token in vocab if token not in special), key=lambda token: int(vocab[token]))
    names = sorted(special, key=lambda name: special[name])
    if model.get("unk_token") != UNKNOWN or UNKNOWN not in ordinary or others:
        raise TokenizerError(f"{where}: a character tokenizer writes unknown characters as U+FFFD; this one does not")
    tokenizer = CharTokenizer(ordinary, special_tokens=names)
    expected = {**vocab, **special}
    wrong = next((t for t, id in {**tokenizer.vocab, **tokenizer.special_tokens}.items() if expected[t] != id), None)
    if wrong is not None:
        raise TokenizerError(
            f"{where}: the ids are not 0, 1, 2, ... with the special tokens last: {wrong!r} has the id {expected[wrong]}"
        )
    for role in ("bos", "eos", "pad"):
        if _known(roles[role], special) != getattr(tokenizer, role):
            raise TokenizerError(
                f"{where}: {role} is {roles[role]!r} in tokenizer_config.json; "
                f"a character tokenizer has {getattr(tokenizer, role)!r}"
            )
    return tokenizer


def _read_pattern(pre: Any, where: str) -> str:
    found = pre.get("pretokenizers") if isinstance(pre, dict) and pre.get("type") == "Sequence" else [pre]
    steps = [step if isinstance(step, dict) else {} for step in found] if isinstance(found, list) else []
    kinds = [step.get("type") for step in steps]
    if kinds in (["ByteLevel"], ["Split", "ByteLevel"]):
        if steps[-1].get("add_prefix_space"):
            raise TokenizerError(f"{where}: add_prefix_space puts a blank before every text: this cannot be read")
        uses_gpt2 = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and uses_gpt2:
            return PATTERNS["gpt2"].portable
        pattern = steps[0].get("pattern")
        source = pattern.get("Regex") if isinstance(pattern, dict) else None
        isolates = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
        if isolates and isinstance(source, str) and not uses_gpt2:
            return source
    raise TokenizerError(
        f"{where}: the pre-tokenizer {kinds} is not one that can be read: "
        "ByteLevel, or one isolating Split by a regular expression and ByteLevel without its own"
    )


def _reads_nfc(normalizer: Any, where: str) -> bool:
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if isinstance(normalizer, dict) and normalizer.get("type") == "NFC":
        return True
    raise TokenizerError(f"{where}: the normalizer {_type(normalizer)} cannot be read; none and NFC can")


def _read_added(tokens: Any, where: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the special tokens and the other added ones, with their ids."""
    found: tuple[dict[str, int], dict[str, int]] = ({}, {})
    if not isinstance(tokens, list | None):
        raise TokenizerError(f"{where}: added_tokens is {_type(tokens)}, not a list")
    for index, token in enumerate(tokens or []):
        name = token.get("content") if isinstance(token, dict) else None
        if not isinstance(name, str) or not name:
            raise TokenizerError(f"{where}: added token {index} is {token!r}: it must have a text ('content')")
        check_id(name, token.get("id"), where)
        if name in found[0] or name in found[1]:
            raise TokenizerError(f"{where}: the added token {name!r} is given twice")
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                raise TokenizerError(f"{where}: the added token {name!r} has {flag}, which cannot be read")
        found[0 if token.get("special") else 1][name] = token["id"]
    return found


def _read_roles(path: Path) -> dict[str, str | None]:
    """Return the texts of bos, eos and pad that `tokenizer_config.json` names."""
    config = read_json(path, TokenizerError) if path.is_file() else {}
    if not isinstance(config, dict):
        raise TokenizerError(f"{path} must be a JSON object, not {_type(config)}")
    roles: dict[str, str | None] = {}
    for role in ("bos", "eos", "pad"):
        value = config.get(f"{role}_token")
        value = value.get("content") if isinstance(value, dict) else value
        if not isinstance(value, str | None):
            raise TokenizerError(f"{path}: {role}_token is {value!r}; it must be the text of a special token")
        roles[role] = value or None
    if config.get("tokenizer_class") in _GPT2_CLASSES:
        roles["bos"], roles["eos"] = roles["bos"] or "<|endoftext|>", roles["eos"] or "<|endoftext|>"
    return roles


def _known(name: str | None, added: dict[str, int]) -> str | None:
    if name is not None and name not in added:
        raise TokenizerError(f"tokenizer_config.json names {name!r}, which is not among the added tokens")
    return name


def _type(value: Any) -> str:
    has_type = isinstance(value, dict) and "type" in value
    return repr(value["type"]) if has_type else f"of type {type(value).__name__}"
