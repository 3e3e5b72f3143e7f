"""The parts of Hugging Face files that several kinds of tokenizer share: reading, and saying what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from groundup.core.errors import TokenizerError
from groundup.core.files import read_json
from groundup.tokenizer.added_tokens import Side, replace_surrogates
from groundup.tokenizer.byte_level import all_to_bytes, to_bytes
from groundup.tokenizer.patterns import PATTERNS

# Old GPT-2 folders leave it to the class to know its tokens.
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True)
class Added:
    """What `added_tokens` lists: ids of the special tokens, of the others, and which take whitespace with them."""

    special: dict[str, int]
    others: dict[str, int]
    strips: dict[str, Side]

    @property
    def ids(self) -> dict[str, int]:
        """The ids of all of them."""
        return {**self.others, **self.special}


@dataclass(frozen=True)
class Config:
    """What `tokenizer_config.json` (and `special_tokens_map.json`) say.

    Attributes:
        path: the file, for messages.
        roles: the text of the token in each role that is named.
        adds_bos, adds_eos: `add_bos_token` and `add_eos_token`.
        values: the whole file.
    """

    path: Path
    roles: dict[str, str]
    adds_bos: bool
    adds_eos: bool
    values: dict[str, Any]

    def known_roles(self, roles: tuple[str, ...], added: Mapping[str, int]) -> dict[str, str | None]:
        """Return the texts of some roles.

        Raises:
            TokenizerError: when one is not among the added tokens.
        """
        for role in roles:
            name = self.roles.get(role)
            if name is not None and name not in added:
                raise TokenizerError(f"{self.path.name} names {name!r}, which is not among the added tokens")
        return {role: self.roles.get(role) for role in roles}


def read_config(folder: Path) -> Config:
    """Read which tokens play which parts; both files may be absent.

    Raises:
        TokenizerError: when a file is malformed.
    """
    path = folder / "tokenizer_config.json"
    values: dict[str, Any] = {}
    for file in (folder / "special_tokens_map.json", path):
        content = read_json(file, TokenizerError) if file.is_file() else {}
        if not isinstance(content, dict):
            raise TokenizerError(f"{file} must be a JSON object, not of type {type(content).__name__}")
        values |= content
    roles: dict[str, str] = {}
    for role in _ROLES:
        value = values.get(f"{role}_token")
        value = value.get("content") if isinstance(value, dict) else value
        if not isinstance(value, str | None):
            raise TokenizerError(f"{path}: {role}_token is {value!r}; it must be the text of a special token")
        if value:
            roles[role] = value
    if values.get("tokenizer_class") in _GPT2_CLASSES:
        roles = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", **roles}
    flags = {key: values.get(key) or False for key in ("add_bos_token", "add_eos_token")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise TokenizerError(f"{path}: {key} is {flag!r}; it must be true or false")
    return Config(path, roles, flags["add_bos_token"], flags["add_eos_token"], values)


def read_added(tokens: Any, where: str) -> Added:
    """Read `added_tokens`.

    They are matched as they are written; `normalized`, which makes `tokenizers` look for them in the normalized text,
    is not read (it makes Llama 1's `<s>` unfindable inside a text).

    Raises:
        TokenizerError: when an entry is malformed, repeated, or asks for what is not done here.
    """
    found = Added({}, {}, {})
    if not isinstance(tokens, list | None):
        raise TokenizerError(f"{where}: added_tokens is {describe(tokens)}, not a list")
    for index, token in enumerate(tokens or []):
        name = token.get("content") if isinstance(token, dict) else None
        if not isinstance(name, str) or not name:
            raise TokenizerError(f"{where}: added token {index} is {token!r}: it must have a text ('content')")
        check_id(name, token.get("id"), where)
        if name in found.special or name in found.others:
            raise TokenizerError(f"{where}: the added token {name!r} is given twice")
        if token.get("single_word"):
            raise TokenizerError(f"{where}: the added token {name!r} has single_word, which cannot be read")
        (found.special if token.get("special") else found.others)[name] = token["id"]
        if token.get("lstrip") or token.get("rstrip"):
            found.strips[name] = "left" if not token.get("rstrip") else "both" if token.get("lstrip") else "right"
    return found


def read_around(post_processor: Any, config: Config, added: Mapping[str, int], where: str) -> tuple[list[str], ...]:
    """Return the names of the special tokens that belong before and after a text.

    What `tokenizer.json` says comes first, as in `transformers`. Where it says nothing, `add_bos_token` and
    `add_eos_token` of the config hold: DeepSeek's files have nothing else, and llama.cpp goes by them.

    Raises:
        TokenizerError: when the post-processor is malformed or of a kind that is not known.
    """
    names = _around(post_processor, where)
    if not any(names):
        wanted = (("bos", config.adds_bos), ("eos", config.adds_eos))
        names = tuple([config.roles[role]] if adds and role in config.roles else [] for role, adds in wanted)
    unknown = next((name for part in names for name in part if name not in added), None)
    if unknown is not None:
        raise TokenizerError(f"{where}: {unknown!r} is put around every text, but is not among the added tokens")
    return names


def _around(post_processor: Any, where: str) -> tuple[list[str], ...]:
    kind = post_processor.get("type") if isinstance(post_processor, dict) else None
    if post_processor is None or kind == "ByteLevel":
        return [], []
    if kind == "Sequence" and isinstance(post_processor.get("processors"), list):
        parts = [part for part in (_around(step, where) for step in post_processor["processors"]) if any(part)]
        if len(parts) <= 1:
            return parts[0] if parts else ([], [])
    if kind in ("BertProcessing", "RobertaProcessing"):
        pair = [post_processor.get(key) for key in ("cls", "sep")]
        if all(isinstance(item, list) and item and isinstance(item[0], str) for item in pair):
            return [pair[0][0]], [pair[1][0]]
    if kind == "TemplateProcessing" and isinstance(post_processor.get("single"), list):
        names: tuple[list[str], list[str]] = ([], [])
        after = False
        for item in post_processor["single"]:
            special = item.get("SpecialToken") if isinstance(item, dict) else None
            if isinstance(special, dict) and isinstance(special.get("id"), str):
                names[after].append(special["id"])
            elif isinstance(item, dict) and "Sequence" in item and not after:
                after = True
            else:
                break
        else:
            if after:
                return names
    raise TokenizerError(f"{where}: the post-processor {describe(post_processor)} cannot be read")


def read_gpt2_files(vocab_file: Path, merges_file: Path) -> dict[str, Any]:
    """Return the arguments of `ByteBPE` for OpenAI's `vocab.json` and `merges.txt`."""
    words = read_json(vocab_file, TokenizerError)
    try:
        lines = merges_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{merges_file} cannot be read: {error}") from None
    special = {"<|endoftext|>": words["<|endoftext|>"]} if "<|endoftext|>" in words else {}
    pairs = [line for line in lines if line and not line.startswith("#version")]
    vocab, unreachable = parse_vocab(words, special, str(vocab_file))
    return {
        "vocab": vocab,
        "unreachable": unreachable,
        "merges": parse_merges(pairs, str(merges_file)),
        "pattern": PATTERNS["gpt2"].name,
        "special_tokens": special,
        "bos": next(iter(special), None),
        "eos": next(iter(special), None),
    }


def parse_words(words: Any, added: Mapping[str, int], where: str) -> dict[str, int]:
    """Read a vocabulary as it is written.

    Raises:
        TokenizerError: when an entry is not an id, or an added token has another id beside it.
    """
    if not isinstance(words, dict) or not words:
        raise TokenizerError(f"{where}: the vocabulary is {describe(words)}, not a table of tokens and their ids")
    ids = words.values()
    are_ids = set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < LARGEST_ID
    if are_ids and all(words.get(token, id) == id for token, id in added.items()):
        return words
    for token, id in words.items():  # one by one, to name the one that is wrong
        check_id(token, id, where)
        if added.get(token, id) != id:
            raise TokenizerError(f"{where}: {token!r} has the id {id} in the vocabulary and {added[token]} beside it")
    return words


def parse_vocab(words: Any, added: Mapping[str, int], where: str) -> tuple[dict[bytes, int], dict[str, int]]:
    """Read `{"Ġthe": 262, ...}` as bytes and ids, leaving out the tokens that are `added`.

    Returns:
        The vocabulary, and the tokens with a character that stands for no byte: no text becomes one of these.

    Raises:
        TokenizerError: when an entry is not an id, or a token is empty or no text.
    """
    known = {token: id for token, id in parse_words(words, added, where).items() if token not in added}
    if "" not in known:
        with suppress(UnicodeEncodeError):
            return dict(zip(all_to_bytes(list(known)), known.values(), strict=True)), {}
    vocab: dict[bytes, int] = {}
    unreachable: dict[str, int] = {}
    for token, id in known.items():
        if not token or replace_surrogates(token) != token:
            raise TokenizerError(f"{where}: the token {token!r} (id {id}) is empty or holds a surrogate")
        try:
            vocab[to_bytes(token)] = id
        except KeyError:
            unreachable[token] = id
    return vocab, unreachable


def parse_merges(merges: Any, where: str) -> list[tuple[bytes, bytes]]:
    """Read `["Ġ t", ...]` or `[["Ġ", "t"], ...]` as pairs of byte strings.

    Raises:
        TokenizerError: when an entry is not a pair, or not written in the byte-level alphabet.
    """
    found = parse_pairs(merges, where)
    with suppress(UnicodeEncodeError):
        parts = iter(all_to_bytes(list(chain.from_iterable(found))))
        return list(zip(parts, parts, strict=True))
    pairs: list[tuple[bytes, bytes]] = []
    for rank, (left, right) in enumerate(found):  # one by one, to name the one that is wrong
        try:
            pairs.append((to_bytes(left), to_bytes(right)))
        except KeyError as error:
            raise TokenizerError(
                f"{where}: merge {rank} ({merges[rank]!r}) holds {error.args[0]!r}, which stands for no byte"
            ) from None
    return pairs


def parse_pairs(merges: Any, where: str) -> list[tuple[str, str]]:
    """Read merges as they are written.

    Raises:
        TokenizerError: when an entry is not a pair of tokens.
    """
    if not isinstance(merges, list):
        raise TokenizerError(f"{where}: merges is {describe(merges)}, not a list")
    if set(map(type, merges)) == {str} and {merge.count(" ") for merge in merges} == {1}:
        halves = " ".join(merges).split(" ")
        if "" not in halves:
            return list(zip(halves[::2], halves[1::2], strict=True))
    pairs: list[tuple[str, str]] = []
    for rank, merge in enumerate(merges):  # written otherwise, or one is wrong
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"{where}: merge {rank} is {merge!r}, not a pair of tokens")
        pairs.append((parts[0], parts[1]))
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


def describe(value: Any) -> str:
    """Say what stands where something else should: `empty`, the name of a part, or the type of a value."""
    if value in ({}, [], ""):
        return "empty"
    has_type = isinstance(value, dict) and "type" in value
    return repr(value["type"]) if has_type else f"of type {type(value).__name__}"
