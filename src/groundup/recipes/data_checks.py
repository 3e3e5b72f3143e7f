"""What can be seen of a run in its files, without training: leaks, vocabulary, tokenizer, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.core.errors import CheckpointError, GroundupError
from groundup.core.files import read_json
from groundup.data.corpus import words
from groundup.data.overlap import COPIED, count_tokens, find_overlap
from groundup.data.shards import TokenShards
from groundup.model.config import TransformerConfig
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import Message
from groundup.train.checkpoint import CheckpointStore
from groundup.train.health.finding import Finding

#: Shares of the held-out text above which a leak is told, and is serious. Split by documents, Shakespeare shares nothing
#: and the Python documentation 0.5 % in passages (phrases that recur), none in whole documents.
COPIED_SHARES, SHARED_SHARES = (0.01, 0.05), (0.1, 0.3)


def check_leak(train: TokenShards, held_out: TokenShards) -> list[Finding]:
    """Look for held-out documents, and passages of them, in the training split."""
    overlap = find_overlap(train, held_out)
    copied, shared = overlap.copied_share, overlap.shared_share
    if copied <= COPIED_SHARES[0] and shared <= SHARED_SHARES[0]:
        return []
    example = ""
    if overlap.copied:
        example = f", the first is number {overlap.copied[0]} of {held_out.folder}"
    return [
        Finding(
            "validation-leak",
            "serious" if copied > COPIED_SHARES[1] or shared > SHARED_SHARES[1] else "warning",
            f"{len(overlap.copied)} of {overlap.documents} held-out documents ({100 * copied:.1f} % of their tokens) stand "
            f"in the training split to {100 * COPIED:.0f} % or more{example}; {100 * shared:.1f} % of the held-out tokens lie "
            f"in passages of {overlap.passage_tokens} tokens that stand there",
            "remove duplicates before splitting, and split by group (file, module, author) instead of by line: "
            "groundup corpus does both",
        )
    ]


def check_conversation_leak(train: Sequence[Sequence[Message]], held_out: Sequence[Sequence[Message]]) -> list[Finding]:
    """Look for held-out conversations, word for word, among those that are trained on."""
    seen = {_conversation(messages) for messages in train}
    copies = [messages for messages in held_out if _conversation(messages) in seen]
    if not copies or len(copies) <= COPIED_SHARES[0] * len(held_out):
        return []
    share = len(copies) / len(held_out)
    return [
        Finding(
            "validation-leak",
            "serious" if share > COPIED_SHARES[1] else "warning",
            f"{len(copies)} of {len(held_out)} held-out conversations are trained on as well, such as "
            f"{copies[0][0]['content'][:60]!r}",
            "remove duplicates from the file: the held-out loss, which chooses the weights that are kept, is too low",
        )
    ]


def _conversation(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], words(message["content"])) for message in messages)


def check_vocabulary(
    config: TransformerConfig,
    tokenizer: Tokenizer,
    shards: Sequence[TokenShards],
    trained_with: Mapping[str, str | None],
) -> list[Finding]:
    """Compare ids and tokenizers of a model, its data, and the run that trained it.

    Args:
        config: of the model.
        tokenizer: the one in the model's directory.
        shards: what it was trained and watched on.
        trained_with: fingerprints of the tokenizer of the training by where they were recorded; None where they were not.
    """
    findings = []
    own = tokenizer.fingerprint()
    if tokenizer.vocab_size > config.vocab_size:
        findings.append(
            Finding(
                "vocabulary-mismatch",
                "serious",
                f"the tokenizer has {tokenizer.vocab_size:,} ids, the model's embedding {config.vocab_size:,}",
                "give the model its own tokenizer, or train with vocab_size of the tokenizer (more is fine)",
            )
        )
    for split in shards:
        counts = count_tokens(split)
        largest = max((index for index, count in enumerate(counts) if count), default=0)
        if largest >= config.vocab_size:
            findings.append(
                Finding(
                    "vocabulary-mismatch",
                    "serious",
                    f"{split.folder} holds the id {largest:,}, the model's embedding ends at {config.vocab_size - 1:,}",
                    "tokenise the corpus again with the model's tokenizer",
                )
            )
    others = {str(split.folder): split.tokenizer_fingerprint for split in shards}
    others |= {where: fingerprint for where, fingerprint in trained_with.items() if fingerprint is not None}
    for where, fingerprint in others.items():
        if fingerprint != own:
            findings.append(
                Finding(
                    "tokenizer-mismatch",
                    "serious",
                    f"the model has the tokenizer {own[:12]}, {where} had {fingerprint[:12]}",
                    "put the tokenizer of the training back: the same ids mean other texts now",
                )
            )
            break
    return findings


def check_checkpoints(store: CheckpointStore) -> list[Finding]:
    """Read every checkpoint's hashes."""
    problems = []
    steps = store.steps()
    for step in steps:
        try:
            store.verify(step)
        except CheckpointError as error:
            problems.append((step, str(error)))
    if not problems:
        return []
    return [
        Finding(
            "damaged-checkpoint",
            "serious" if len(problems) == len(steps) else "warning",
            f"{len(problems)} of {len(steps)} checkpoints cannot be read: {problems[-1][1]}",
            f"delete {', '.join(str(store.path(step)) for step, _ in problems)}: the run goes on from an older one, or anew; "
            "then look at the disk",
            problems[0][0],
            problems[-1][0],
        )
    ]


def recorded_state(work: Path) -> dict[str, Any]:
    """The state in the newest readable checkpoint of a stage; empty when there is none."""
    store = CheckpointStore(work / "checkpoints")
    for step in reversed(store.steps()):
        try:
            return dict(read_json(store.path(step) / "state.json", CheckpointError))
        except GroundupError:
            continue
    return {}
