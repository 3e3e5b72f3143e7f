"""What the tokenizers have in common: roles, special tokens in a text, what stands around it, decoding, files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from groundup.core.errors import TokenizerError
from groundup.core.files import sha256_json
from groundup.tokenizer import hf_files
from groundup.tokenizer.added_tokens import AddedTokens, replace_surrogates

# Words follow Zipf's law: on 2 MB of English 99 % of the pre-tokens are found here after the first few hundred KB.
_CACHE_ENTRIES = 1 << 16
_CACHED_LENGTH = 64


class TokenizerBase(ABC):
    """A `Tokenizer` without its algorithm: a subclass says how ordinary text becomes ids.

    Args:
        added: the tokens that are matched whole.
        token_bytes: the bytes of every token, by id.
        roles: which token is `bos`, `eos`, `pad` (and `unk`, `cls`, `sep`, `mask` where there are such).
        prefix, suffix: special tokens that the model expects around a text.

    Raises:
        TokenizerError: when a role, the prefix or the suffix names what is no special token.
    """

    strips_first_blank = False
    #: What `tokenizer_config.json` says besides.
    config: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        added: AddedTokens,
        token_bytes: dict[int, bytes],
        *,
        roles: Mapping[str, str | None],
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
    ) -> None:
        self.added = added
        self.special_tokens = added.special
        self.added_tokens = added.others
        self._token_bytes = token_bytes
        self.vocab_size = max(token_bytes, default=-1) + 1
        self._special_ids = frozenset(added.special.values())
        self.roles = {role: name for role, name in roles.items() if name is not None}
        for role, name in self.roles.items():
            self._require(role, name)
        self.bos, self.eos, self.pad = (self.roles.get(role) for role in ("bos", "eos", "pad"))
        self.bos_id, self.eos_id, self.pad_id = (self.role_id(role) for role in ("bos", "eos", "pad"))
        self.unknown_id = self.role_id("unk")
        self.prefix, self.suffix = tuple(prefix), tuple(suffix)
        self.prefix_ids = tuple(self._require("a token put before every text", name) for name in self.prefix)
        self.suffix_ids = tuple(self._require("a token put after every text", name) for name in self.suffix)

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects its bos token before a text."""
        return self.bos_id is not None and self.bos_id in self.prefix_ids

    @property
    def adds_eos(self) -> bool:
        """Whether the model expects its eos token after a text."""
        return self.eos_id is not None and self.eos_id in self.suffix_ids

    def role_id(self, role: str) -> int | None:
        """Return the id of the token that plays a part (`bos`, `unk`, `cls`, ...), or None."""
        return self.added.ids[self.roles[role]] if role in self.roles else None

    def encode(self, text: str, *, allow_special: bool = False, after: int | None = None) -> list[int]:
        """Return the ids of `text`; see `Tokenizer.encode`."""
        ids: list[int] = []
        for part in self.added.split(replace_surrogates(text), allow_special=allow_special, after=after):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids.extend(self._encode_ordinary(part, ids[-1] if ids else after))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for each text."""
        return [self.encode(text) for text in texts]

    def encode_with_special(
        self, text: str, *, allow_special: bool = False, max_length: int | None = None
    ) -> list[int]:
        """Return the ids of `text` between `prefix_ids` and `suffix_ids`; see `Tokenizer.encode_with_special`."""
        ids = self.encode(text, allow_special=allow_special)
        if max_length is not None:
            room = max_length - len(self.prefix_ids) - len(self.suffix_ids)
            if room < 0:
                raise TokenizerError(
                    f"max_length {max_length} has no room for the special tokens around a text: "
                    f"they are {max_length - room} ({', '.join([*self.prefix, *self.suffix])})"
                )
            ids = ids[:room]
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Return the text of `ids`; see `Tokenizer.decode`."""
        skipped = self._special_ids if skip_special else frozenset()
        text = b"".join(self.token_bytes(id) for id in ids if id not in skipped).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_first_blank else text

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes that one token stands for; see `Tokenizer.token_bytes`."""
        try:
            return self._token_bytes[id]
        except KeyError:
            raise TokenizerError(f"id {id} names no token: the vocabulary has {self.vocab_size} ids") from None

    def save(self, folder: Path, *, chat_template: str | None = None, max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; see `Tokenizer.save`."""
        config = hf_files.config_json(self.roles, chat_template, max_length)
        hf_files.save(folder, self.to_json(), {**config, **self.config})

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything that decides the ids."""
        content = {**self.to_json(), "post_processor": None}  # plays no part in `encode`
        return sha256_json([content, self.bos, self.eos, self.pad])

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""

    @abstractmethod
    def _encode_ordinary(self, text: str, after: int | None) -> list[int]:
        """Return the ids of text without added tokens, which stands after the id `after`."""

    def _require(self, part: str, name: str) -> int:
        if name not in self.added.ids:
            raise TokenizerError(f"{part} is {name!r}, which is no special token ({', '.join(self.special_tokens)})")
        return self.added.ids[name]


def remember(cache: dict[str, list[int]], piece: str, ids: list[int]) -> None:
    """Keep the ids of a piece of text for the next time, unless it is long; a full cache begins anew."""
    if len(piece) <= _CACHED_LENGTH:
        if len(cache) >= _CACHE_ENTRIES:
            cache.clear()
        cache[piece] = ids


def bytes_by_id(vocab: Mapping[bytes, int], unreachable: Mapping[str, int], added: AddedTokens) -> dict[int, bytes]:
    """Return the bytes of every token of byte-level BPE, those that are written as text as their UTF-8.

    Raises:
        TokenizerError: when two tokens share an id, an added one equals an ordinary one, or an id is negative.
    """
    tokens = [*vocab.items(), *((name.encode("utf-8", "replace"), id) for name, id in unreachable.items())]
    by_id = {id: token for token, id in tokens}
    if len(by_id) < len(tokens):
        first: dict[int, bytes] = {}
        for token, id in tokens:
            if id in first:
                raise TokenizerError(f"the tokens {first[id]!r} and {token!r} share the id {id}")
            first[id] = token
    for name, id in added.ids.items():
        if id in by_id:
            raise TokenizerError(f"the special token {name!r} and the token {by_id[id]!r} share the id {id}")
        if name in unreachable or (name in added.special and name.encode("utf-8") in vocab):
            raise TokenizerError(f"the special token {name!r} is an ordinary token too: choose another name")
        by_id[id] = name.encode("utf-8")
    if min(by_id, default=0) < 0:
        raise TokenizerError(f"the token {by_id[min(by_id)]!r} has the negative id {min(by_id)}")
    return by_id


def word_bytes(vocab: Mapping[str, int], added: AddedTokens, shown: Callable[[str, bool], str]) -> dict[int, bytes]:
    """Return the bytes of every token of a tokenizer whose tokens are words or parts of words.

    Args:
        vocab: text of each ordinary token and its id.
        added: the tokens that are matched whole.
        shown: (text of a token, whether it is an added one) -> what stands in a text for it.

    Raises:
        TokenizerError: when two tokens share an id, an id is negative, or a token is no text.
    """
    by_id: dict[int, bytes] = {}
    names: dict[int, str] = {}
    for name, id in [*vocab.items(), *added.ids.items()]:
        if id in names:
            raise TokenizerError(f"the tokens {names[id]!r} and {name!r} share the id {id}")
        if id < 0:
            raise TokenizerError(f"the token {name!r} has the negative id {id}")
        if name in vocab and name in added.ids:
            raise TokenizerError(f"the special token {name!r} is an ordinary token too: choose another name")
        names[id] = name
        try:
            by_id[id] = shown(name, name in added.ids).encode("utf-8")
        except UnicodeEncodeError:
            raise TokenizerError(f"the token {name!r} (id {id}) holds a surrogate: this is no text") from None
    return by_id
