"""Are the assistant's words trained, and nobody else's? Read off the text of the trained tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from groundup.data.corpus import words
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import EncodedChat, Message
from groundup.train.health.finding import Finding, Severity

#: Conversations that are read.
MOST_CONVERSATIONS = 200
#: Shorter messages of a user ("Yes.") may stand in an answer by chance.
SHORTEST_CHARACTERS = 16
#: Above this share of the conversations it is no accident of a few.
FEW = 0.05


def trained_text(tokenizer: Tokenizer, chat: EncodedChat) -> str:
    """The text of the trained tokens, a line for each run of them."""
    runs = groupby(zip(chat.ids, chat.trained, strict=True), key=lambda pair: pair[1])
    return "\n".join(tokenizer.decode([id for id, _ in run], skip_special=True) for trained, run in runs if trained)


def check_mask(
    tokenizer: Tokenizer, chats: Sequence[EncodedChat], conversations: Sequence[Sequence[Message]]
) -> list[Finding]:
    """Compare the trained text of conversations with who said what.

    Only words count (`data.corpus.words`), since templates trim and indent.

    Args:
        chats: encoded conversations.
        conversations: the messages that they were made from, in the same order.

    Returns:
        at most one finding: others' words are trained, or answers are not.
    """
    pairs = list(zip(chats, conversations, strict=True))[:MOST_CONVERSATIONS]
    foreign, missing = [], []
    for chat, messages in pairs:
        text = words(trained_text(tokenizer, chat))
        answers = [words(message["content"]) for message in messages if message["role"] == "assistant"]
        others = [words(message["content"]) for message in messages if message["role"] != "assistant"]
        said = [t for t in others if len(t) >= SHORTEST_CHARACTERS and t in text and not any(t in a for a in answers)]
        if said:
            foreign.append(said[0])
        if answers and answers[-1] and answers[-1] not in text:
            missing.append(answers[-1])
    fix = (
        "let the chat template put the assistant's words, and only those, between {% generation %} and "
        "{% endgeneration %} (groundup sft MODEL DATA --preview 3 shows what is trained)"
    )
    # Where a template marks the wrong turns both hold; what is trained that should not be says more.
    for what, examples in (
        ("train what the user or the system said", foreign),
        ("do not train their last answer", missing),
    ):
        if examples:
            severity: Severity = "serious" if len(examples) > FEW * len(pairs) else "warning"
            evidence = f"{len(examples)} of {len(pairs)} conversations {what}, such as {examples[0][:60]!r}"
            return [Finding("wrong-mask", severity, evidence, fix)]
    return []
