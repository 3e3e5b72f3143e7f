"""Supervised fine-tuning: the next-token loss on the assistant's words of conversations.

The loss is `train.objectives.next_token_loss`, unchanged; what makes it fine-tuning is the mask, which comes from
the rendering of the chat template (Ouyang et al. 2022, arXiv:2203.02155, section 3.5, step 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from groundup.core.errors import DataError, TokenizerError
from groundup.data.conversations import ConversationSource
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate, EncodedChat, Message, encode_chat
from groundup.train.objectives import next_token_loss


def encode_conversations(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    conversations: Sequence[Sequence[Message]],
    on_progress: Callable[[int], None] | None = None,
) -> list[EncodedChat]:
    """Render and encode conversations; the trained tokens are those that the template marks as generated.

    Args:
        on_progress: called with the number of conversations encoded since the last call.

    Raises:
        DataError: when the template trains nothing or everything of a conversation (naming which one).
    """
    encoded = []
    for index, messages in enumerate(conversations):
        try:
            chat = encode_chat(tokenizer, template, list(messages))
        except (DataError, TokenizerError) as error:
            raise type(error)(f"conversation {index + 1} of {len(conversations)}: {error}") from None
        if not any(chat.trained) or all(chat.trained):
            what = "no token" if not any(chat.trained) else "every token"
            raise DataError(
                f"conversation {index + 1} of {len(conversations)} would train {what} of {len(chat.ids)}: the chat "
                "template must mark the assistant's words with {% generation %} ... {% endgeneration %}, and the "
                "conversation needs an assistant message"
            )
        encoded.append(chat)
        if on_progress is not None:
            on_progress(1)
    return encoded


@torch.no_grad()
def conversation_loss(model: nn.Module, source: ConversationSource, *, max_tokens: int) -> dict[str, float]:
    """Mean loss over the trained tokens of held-out conversations, each seen once, up to `max_tokens` of them.

    Returns:
        `{"loss": nats per trained token}`.
    """
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for batch in source.each_once():
        loss = next_token_loss(model, batch.to(device))
        total, count = total + float(loss.total), count + loss.count
        if count >= max_tokens:
            break
    return {"loss": total / max(count, 1)}
