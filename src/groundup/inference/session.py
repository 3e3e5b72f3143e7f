"""A conversation with a model: history, system prompt, and a cache that is read on from where it still fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from groundup.core.errors import DataError, ModelError, UsageError
from groundup.core.files import read_json, write_json
from groundup.core.seeds import seed_for
from groundup.inference.contracts import LanguageModel, Opened
from groundup.inference.sampling import Sampling
from groundup.inference.text import TextPiece, stream_text
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate, Message, encode_chat, turn_end_id

log = logging.getLogger("groundup.inference.session")

FORMAT = "groundup-chat"
# Left free for an answer when old turns are dropped: a quarter of the context, or less when less was asked for.
ANSWER_SHARE = 4


class ChatSession:
    """Talks with a chat model and remembers.

    Args:
        model: a causal model.
        tokenizer: the model's.
        template: the model's chat template.
        system: the system prompt, or None; it stays when old turns are dropped.
        sampling: settings of every answer; each turn draws from its own seed, derived from `sampling.seed`.
        stop_ids: tokens that end an answer; by default `answer_stop_ids` of the tokenizer and the template.
        on_notice: told, once per session, that old turns no longer fit; by default the log is.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        stop_ids: Collection[int] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.system = system
        self.sampling = sampling or Sampling()
        self.stop_ids = frozenset(answer_stop_ids(tokenizer, template) if stop_ids is None else stop_ids)
        self.on_notice = on_notice or log.warning
        self.messages: list[Message] = []
        self.num_dropped = 0
        self.num_reused_tokens = 0
        self._told_of_dropping = False
        self._cache: Any = None
        self._cached_ids: list[int] = []

    def send(self, text: str) -> Iterator[TextPiece]:
        """Add the user's message and stream the answer.

        The answer enters the history when its last piece was taken, or with what was generated so far when the
        iterator is closed early (Ctrl-C); a message that got no answer at all leaves the history.

        Raises:
            UsageError: when the message alone is longer than the model can read.
        """
        ids = self._encode_within_context([*self.messages, {"role": "user", "content": text}])
        return self._answer(text, ids)

    def reply(self, text: str) -> str:
        """Add the user's message and return the whole answer."""
        return "".join(piece.text for piece in self.send(text))

    def reset(self) -> None:
        """Forget the conversation; the system prompt and the settings stay."""
        self.messages = []
        self.num_dropped = 0

    def save(self, path: Path) -> None:
        """Write the conversation as JSON (`messages` as in a chat data set, the system prompt first)."""
        write_json(path, {"format": FORMAT, "messages": self._with_system(self.messages), "seed": self.sampling.seed})

    def load(self, path: Path) -> None:
        """Go on with a conversation written by `save` (or any JSON object with `messages`).

        Raises:
            DataError: when the file is missing or no conversation.
        """
        value = read_json(path)
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
            raise DataError(f"{path} is no conversation: it needs a list 'messages' of objects with role and content")
        has_system = bool(messages) and messages[0]["role"] == "system"
        turns = messages[1:] if has_system else messages
        for index, message in enumerate(turns):
            expected = "assistant" if index % 2 else "user"
            if message["role"] != expected:
                raise DataError(
                    f"{path}: message {index + has_system} has the role {message['role']!r} where {expected!r} is due"
                )
        if len(turns) % 2:
            raise DataError(f"{path}: the last message is the user's and has no answer; remove it and send it again")
        self.system = messages[0]["content"] if has_system else None
        self.messages = [{"role": message["role"], "content": message["content"]} for message in turns]
        self.num_dropped = 0

    def _with_system(self, messages: list[Message]) -> list[Message]:
        return messages if self.system is None else [{"role": "system", "content": self.system}, *messages]

    def _encode_within_context(self, messages: list[Message]) -> list[int]:
        """Encode the conversation, without its oldest turns where they leave no room for an answer."""
        longest = int(self.model.config.max_position_embeddings)
        room = min(self.sampling.max_new_tokens, longest // ANSWER_SHARE)
        first = self.num_dropped
        while True:
            ids = encode_chat(
                self.tokenizer, self.template, self._with_system(messages[first:]), add_generation_prompt=True
            ).ids
            if len(ids) + room <= longest:
                break
            if first + 2 >= len(messages):
                if len(ids) > longest:
                    raise UsageError(
                        f"the message{' and the system prompt' if self.system else ''} make {len(ids)} tokens, the "
                        f"model reads at most {longest} (max_position_embeddings): shorten the message"
                    )
                break
            first += 2
        if first > self.num_dropped:
            self.num_dropped = first
            if not self._told_of_dropping:
                self._told_of_dropping = True
                self.on_notice(
                    f"the conversation is longer than the {longest} tokens the model can read: from now on it no "
                    "longer sees the oldest messages"
                )
        return ids

    def _cache_for(self, ids: list[int]) -> Any:
        """The cache cut back to what it has in common with `ids`, or a new one where it cannot be cut."""
        common = 0
        # The last token is always read again: its hidden state predicts the first token of the answer.
        for cached, wanted in zip(self._cached_ids, ids[:-1], strict=False):
            if cached != wanted:
                break
            common += 1
        if self._cache is not None and common < self._cache.length:
            try:
                self._cache.truncate(common)
            except ModelError:
                # A recurrent state cannot be cut back: the conversation is read from its beginning.
                self._cache = None
        if self._cache is None:
            self._cache = self.model.new_cache(1)
            common = 0
        self.num_reused_tokens = common
        return self._cache

    def _answer(self, text: str, ids: list[int]) -> Iterator[TextPiece]:
        turn = sum(message["role"] == "user" for message in self.messages)
        sampling = self.sampling.replace(seed=seed_for(self.sampling.seed, "turn", turn))
        cache = self._cache_for(ids)
        pieces = stream_text(
            self.model, self.tokenizer, ids, sampling, stop_ids=self.stop_ids, cache=cache, continues=False
        )
        self.messages.append({"role": "user", "content": text})
        texts: list[str] = []
        tokens: list[int] = []
        try:
            for piece in pieces:
                texts.append(piece.text)
                tokens += [step.token for step in piece.steps]
                yield piece
        finally:
            # Tokens whose text was held back may be in the cache and not in `tokens`: those are cut off.
            self._cached_ids = [*ids, *tokens][: cache.length]
            if texts:
                self.messages.append({"role": "assistant", "content": "".join(texts)})
            else:
                self.messages.pop()


def open_session(loaded: Opened, **options: Any) -> ChatSession:
    """Start a session with a model that was loaded; `options` are those of `ChatSession`.

    Raises:
        UsageError: when the directory has no chat template (a base model).
    """
    if loaded.chat_template is None:
        raise UsageError(
            f"{loaded.folder} has no chat template: it is a base model, which only completes text. "
            "Tune it on conversations first, or use generate"
        )
    options.setdefault("stop_ids", answer_stop_ids(loaded.tokenizer, loaded.chat_template, loaded.generation))
    return ChatSession(loaded.model, loaded.tokenizer, loaded.chat_template, **options)


def answer_stop_ids(
    tokenizer: Tokenizer, template: ChatTemplate | None, generation: dict[str, Any] | None = None
) -> list[int]:
    """The tokens that end an answer.

    Args:
        tokenizer: its end of text is one.
        template: the token with which it ends a turn is another.
        generation: content of a generation_config.json, whose `eos_token_id` (one or several) are others.

    Returns:
        each once: the end of a turn, the end of text, those of the generation config.
    """
    named = (generation or {}).get("eos_token_id")
    others = list(named) if isinstance(named, list | tuple) else [named]
    ends = [None if template is None else turn_end_id(tokenizer, template), tokenizer.eos_id, *others]
    return list(dict.fromkeys(int(end) for end in ends if end is not None))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))
