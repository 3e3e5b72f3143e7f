"""Chat templates: a conversation rendered to text, and to ids with the span that training learns from.

What a person writes can never become a special token. Before rendering, every special-token string inside a message
is broken by a character that occurs nowhere else; the rendering is then cut at the special tokens that are left
(the template's own), and the character is taken out of the pieces between them before they are encoded as ordinary
text. `{% generation %}` blocks are marked the same way, by two more such characters.

The rule for the trained span: the rendering is also cut at the borders of a `{% generation %}` block, so a token lies
wholly inside or wholly outside. A prompt rendered with `add_generation_prompt` is thereby always a prefix of the ids
of the whole conversation, which is what the model sees when it answers. `transformers` does not cut there: its ids
differ from ours when the split pattern would join the text on both sides of a border (with the default template: when
an answer begins with whitespace), and are the same otherwise. Most published templates have no such blocks; then the
answers are found by rendering the conversation up to each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import regex

from groundup.core.errors import DataError, TokenizerError
from groundup.core.files import read_json
from groundup.tokenizer.base import IM_END, IM_START, Tokenizer, replace_surrogates
from groundup.tokenizer.template import compile_template, render_template

#: `role` (system, user, assistant) and `content`; templates of others may read more.
Message = dict[str, str]

#: ChatML (OpenAI 2023, github.com/openai/openai-python/blob/v0.27.0/chatml.md); the answer and its end are trained.
DEFAULT_CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('the role ' + message['role'] + ' is not one of system, user, assistant') }}
    {%- endif %}
    {%- if message['role'] == 'system' and not loop.first %}
        {{- raise_exception('a system message can only be the first one') }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as ids.

    Attributes:
        ids: token ids of the whole rendering.
        trained: for each id, whether it lies in a `{% generation %}` block.
    """

    ids: list[int]
    trained: list[bool]


class ChatTemplate:
    """A Jinja chat template, as `transformers` understands it, run in a sandbox.

    Args:
        source: the template.
        variables: what it may read besides the messages, such as `bos_token`.

    Raises:
        TokenizerError: when the template does not compile, with the line.
    """

    def __init__(self, source: str, *, variables: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.variables = dict(variables or {})
        self._compiled = compile_template(source)

    @property
    def marks_generation(self) -> bool:
        """Whether the template says what is trained (has a `{% generation %}` block)."""
        return bool(regex.search(r"\{%[-+]?\s*generation\b", self.source))

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """Return the text of a conversation, as `apply_chat_template(tokenize=False)` does.

        Args:
            messages: the conversation, each message with `role` and `content`.
            add_generation_prompt: end with the beginning of an answer.

        Raises:
            DataError: for a conversation that is empty, or a message without role or content.
            TokenizerError: when the template refuses the conversation or fails.
        """
        check_messages(messages)
        return render_template(self._compiled, messages, add_generation_prompt, self.variables, marks=("", ""))

    def render_marked(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, marks: tuple[str, str]
    ) -> str:
        """Return the rendering with `marks` around each `{% generation %}` block."""
        return render_template(self._compiled, messages, add_generation_prompt, self.variables, marks)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> EncodedChat:
    """Render a conversation and encode it, keeping what people wrote apart from what the template says.

    Args:
        tokenizer: gives ids and knows the special tokens.
        template: how a conversation is written.
        messages: the conversation, each message with `role` and `content`.
        add_generation_prompt: end with the beginning of an answer (for generating, not for training).

    Returns:
        The ids and which of them are trained; see the head of this module for the rule.

    Raises:
        DataError: for a conversation that is empty, or a message without role or content.
        TokenizerError: when the template refuses the conversation or fails.
    """
    check_messages(messages)
    special = sorted(tokenizer.special_tokens, key=len, reverse=True)
    shield, (begin, end) = _shield(special, [template.source, *_strings([messages, template.variables, special])])
    try:
        protected = shield.protect(list(messages))
        text = template.render_marked(protected, add_generation_prompt, (begin, end))
        if not template.marks_generation and not add_generation_prompt:
            text = _mark_answers(template, protected, text, special, (begin, end))
    except TokenizerError as error:
        raise TokenizerError(shield.remove(str(error))) from None
    ids: list[int] = []
    trained: list[bool] = []
    inside = False
    for piece in regex.split("(" + "|".join(map(regex.escape, [begin, end, *special])) + ")", text):
        if piece in (begin, end):
            if inside == (piece == begin):
                raise TokenizerError("the chat template nests or reorders its {% generation %} blocks")
            inside = piece == begin
        elif piece in tokenizer.special_tokens:
            ids.append(tokenizer.special_tokens[piece])
            trained.append(inside)
        elif piece:
            ordinary = tokenizer.encode(shield.remove(piece), after=ids[-1] if ids else None)
            ids.extend(ordinary)
            trained.extend([inside] * len(ordinary))
    return EncodedChat(ids, trained)


#: For tokenizers without ChatML's tokens: a role is a line after an end of text, which nobody's words can hold.
PLAIN_CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + END }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + END }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'assistant\\n' }}
{%- endif %}
"""


def default_chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """How conversations are written for a model that has no template of its own.

    ChatML where the tokenizer has its two tokens. Where it has not (GPT-2, base models), `<|im_end|>` would be a string
    of ordinary tokens that nothing stops at: then every turn ends with the tokenizer's end of text.

    Raises:
        DataError: for a tokenizer that has neither.
    """
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    if IM_START in tokenizer.special_tokens and IM_END in tokenizer.special_tokens:
        return ChatTemplate(DEFAULT_CHAT_TEMPLATE)
    if tokenizer.eos_id not in names:
        raise DataError(
            f"the tokenizer has neither {IM_START} and {IM_END} nor an end-of-text token, so an answer could not end: "
            "give it an eos_token in tokenizer_config.json"
        )
    return ChatTemplate(PLAIN_CHAT_TEMPLATE.replace("END", repr(names[tokenizer.eos_id])))


def turn_end_id(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token with which a template ends an answer (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`).

    It is read off a rendered answer: the last special token of what is trained, or the one that follows it. Many
    published files name only the end of a document as eos, and models tuned on a template end their turns otherwise.

    Returns:
        its id, or None where the template writes none or refuses a plain question and answer.
    """
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    try:
        chat = encode_chat(tokenizer, template, turns)
    except (DataError, TokenizerError):
        return None
    places = [place for place, is_trained in enumerate(chat.trained) if is_trained]
    special = set(tokenizer.special_tokens.values())
    inside = [chat.ids[place] for place in reversed(places) if chat.ids[place] in special]
    after = chat.ids[places[-1] + 1 :][:1] if places else []
    return next((id for id in [*inside, *after] if id in special), None)


def _mark_answers(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    text: str,
    special: Sequence[str],
    marks: tuple[str, str],
) -> str:
    """Put the marks around each answer of a rendering whose template has no `{% generation %}` blocks.

    An answer is what a conversation rendered up to it has more than the conversation before it, ready for an answer. It
    ends with the last special token in it (the end of the turn); blanks after that belong to the template. Where a
    template writes an earlier turn otherwise once another follows (some drop its reasoning), that turn is not marked.
    """
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        before = template.render_marked(messages[:index], True, ("", ""))
        after = template.render_marked(messages[: index + 1], False, ("", ""))
        if not (text.startswith(before) and text.startswith(after) and len(before) < len(after)):
            continue
        answer = text[len(before) : len(after)]
        ends = [answer.rfind(name) + len(name) for name in special if name in answer]
        last = max(ends, default=len(answer))
        spans.append((len(before), len(before) + (last if not answer[last:].strip() else len(answer))))
    for start, stop in reversed(spans):
        text = text[:start] + marks[0] + text[start:stop] + marks[1] + text[stop:]
    return text


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """Read the chat template of a model directory, or None when it has none.

    `chat_template.jinja` comes before `chat_template` in `tokenizer_config.json`; of several named templates the
    one named "default" is taken. The special tokens of the config are what the template can read as variables.

    Raises:
        TokenizerError: when a file is malformed, or the template does not compile.
    """
    folder = Path(folder)
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = read_json(config_file, TokenizerError) if config_file.is_file() else {}
    if not isinstance(config, dict):
        raise TokenizerError(f"{config_file} must be a JSON object, not of type {type(config).__name__}")
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default")
    if template_file.is_file():
        try:
            source = template_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{template_file} cannot be read: {error}") from None
    if source is None:
        return None
    if not isinstance(source, str):
        raise TokenizerError(f"{config_file}: chat_template is of type {type(source).__name__}, not a text")
    tokens = {key: config[key] for key in config if key.endswith("_token")}
    contents = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return ChatTemplate(source, variables={key: value for key, value in contents.items() if isinstance(value, str)})


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what is not a conversation.

    Raises:
        DataError: naming the message and what is wrong with it.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise DataError(f"a conversation is a list of messages with at least one, not {messages!r}"[:300])
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise DataError(f"message {index} is {message!r}, not an object with role and content"[:300])
        for key in ("role", "content"):
            if key not in message:
                raise DataError(f"message {index} has no {key!r}; it has {', '.join(map(repr, message)) or 'nothing'}")
            if not isinstance(message[key], str):
                raise DataError(f"message {index}: {key!r} is {message[key]!r}, not a text"[:300])
        if not message["role"]:
            raise DataError(f"message {index} has an empty role: use system, user or assistant")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _shield(special: list[str], texts: Sequence[str]) -> tuple[_Shield, list[str]]:
    """Return a shield against the special tokens, and two more characters that none of the texts holds."""
    used = set().union(*texts)
    short = [name for name in special if len(name) == 1]
    # The supplementary private-use planes: 131,068 characters, so there are enough unless someone fills them.
    planes = (chr(code) for start in (0xF0000, 0x100000) for code in range(start, start + 0xFFFE))
    free = list(islice((character for character in planes if character not in used), 3 + len(short)))
    if len(free) < 3 + len(short):
        raise DataError("the conversation uses every private-use character of Unicode: remove some")
    return _Shield(special, free[0], dict(zip(short, free[3:], strict=True))), free[1:3]


@dataclass(frozen=True)
class _Shield:
    """Keeps special-token strings in messages from being read as special tokens.

    Attributes:
        special: the special tokens, the longest first.
        nonce: a character that occurs in no text; it is put inside their strings.
        substitutes: a stand-in for each special token of one character, which has no inside.
    """

    special: list[str]
    nonce: str
    substitutes: dict[str, str]

    def protect(self, value: Any) -> Any:
        """Return a copy of the messages in which no string holds, begins or ends a special token."""
        if isinstance(value, str):
            return self._guard_ends(self._break(value))
        if isinstance(value, Mapping):
            # Keys are looked up by the template, so they are changed only where they hold a whole special token.
            return {self._break(str(key)): self.protect(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(item) for item in value]
        return value

    def remove(self, text: str) -> str:
        """Return `text` as it was written."""
        text = text.replace(self.nonce, "")
        for name, substitute in self.substitutes.items():
            text = text.replace(substitute, name)
        return text

    def _break(self, text: str) -> str:
        text = replace_surrogates(text)
        for name in self.special:
            if len(name) == 1:
                text = text.replace(name, self.substitutes[name])
            while name in text:  # more than once where occurrences overlap (`aaa` holds `aa` twice)
                text = text.replace(name, name[0] + self.nonce + name[1:])
        return text

    def _guard_ends(self, text: str) -> str:
        # The beginning of a special token at the end of a message, and its rest in the template or in the next
        # message, would meet. Whitespace is looked past, because templates trim.
        tail = text.rstrip()
        if any(tail.endswith(name[:size]) for name in self.special for size in range(1, len(name))):
            text = tail + self.nonce + text[len(tail) :]
        head = text.lstrip()
        if any(head.startswith(name[size:]) for name in self.special for size in range(1, len(name))):
            text = text[: len(text) - len(head)] + self.nonce + head
        return text
