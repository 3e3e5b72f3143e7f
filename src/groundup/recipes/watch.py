"""The health monitor of a stage: what it must know of the run, and what can be seen before the first update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from groundup.align.mask import check_mask
from groundup.core import console
from groundup.core.metrics import JsonlSink, MetricsSink, read_jsonl
from groundup.data.overlap import count_tokens, unigram_entropy
from groundup.data.shards import TokenShards
from groundup.model.directory import LoadedModel
from groundup.model.transformer import Transformer
from groundup.recipes.data_checks import check_conversation_leak, check_leak, check_vocabulary
from groundup.recipes.settings import PretrainSettings, SftSettings
from groundup.tokenizer.chat import EncodedChat, Message
from groundup.train.health.finding import Finding
from groundup.train.health.history import RunFacts
from groundup.train.health.monitor import Monitor

#: Training tokens that are searched for held-out text before the first update: about half a second.
SEARCHED_TOKENS = 4_000_000


def pretraining_monitor(
    model: Transformer,
    train: TokenShards,
    validation: TokenShards,
    settings: PretrainSettings,
    sink: MetricsSink,
    *,
    document_rows: int,
    is_fresh: bool,
) -> Monitor:
    """The monitor of pretraining.

    Args:
        document_rows: rows of a batch that hold windows of `train`.
        is_fresh: the model has random weights.
    """
    facts = RunFacts(
        vocab_size=model.config.vocab_size,
        parameters=_num_parameters(model),
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
        warmup_steps=settings.warmup_steps,
        is_fresh=is_fresh,
        epoch_tokens=round(train.num_tokens * settings.batch_size / document_rows),
        unigram_entropy=unigram_entropy(count_tokens(train)),
    )
    known = check_leak(train, validation) if train.num_tokens <= SEARCHED_TOKENS else []
    return _monitor(facts, sink, known)


def tuning_monitor(
    parent: LoadedModel,
    chats: Sequence[EncodedChat],
    train: Sequence[Sequence[Message]],
    validation: Sequence[Sequence[Message]],
    settings: SftSettings,
    sink: MetricsSink,
) -> Monitor:
    """The monitor of tuning on conversations.

    Args:
        parent: the model that is tuned.
        chats: the encoded conversations of `train`.
        train, validation: conversations as lists of messages.
    """
    model, tokenizer = parent.model, parent.tokenizer
    trained = [
        np.array(chat.ids[1:], dtype=np.int64)[np.array(chat.trained[1:], dtype=bool)] for chat in chats if chat.ids
    ]
    counts = np.bincount(np.concatenate(trained), minlength=model.config.vocab_size)
    facts = RunFacts(
        vocab_size=model.config.vocab_size,
        parameters=_num_parameters(model),
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
        warmup_steps=settings.warmup_steps,
        is_fresh=False,
        epoch_tokens=sum(map(len, trained)),
        unigram_entropy=unigram_entropy(counts),
    )
    known = [
        *check_vocabulary(model.config, tokenizer, [], {"its training": parent.lineage.get("tokenizer")}),
        *check_mask(tokenizer, chats, train),
        *check_conversation_leak(train, validation),
    ]
    return _monitor(facts, sink, known)


def _monitor(facts: RunFacts, sink: MetricsSink, known: Sequence[Finding]) -> Monitor:
    earlier = (lambda: read_jsonl(sink.path)) if isinstance(sink, JsonlSink) else tuple
    return Monitor(facts, earlier=earlier, tell=tell, known=known)


def tell(finding: Finding) -> None:
    """Say a finding on the console, while the run goes on."""
    place = f" at update {finding.where}" if finding.where else ""
    console.warn(f"{finding.rule}{place}: {finding.evidence}. {finding.fix}")


def _num_parameters(model: nn.Module) -> int:
    """Of the module and not of its config, which does not know what is in a part of kind `file`."""
    return sum(parameter.numel() for parameter in model.parameters())
