"""Pretraining and tuning as functions: settings become model, source, objective and trainer, and run."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup import __version__
from groundup.align.sft import conversation_loss, encode_conversations
from groundup.core import console
from groundup.core.errors import DataError, PlanError
from groundup.core.execution import (
    ExecutionPlan,
    available_cpus,
    keep_freed_memory,
    machine_fingerprint,
    resolve_device,
)
from groundup.core.files import read_json, sha256_file, sha256_json, write_json
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import MetricsSink
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.data.conversations import ConversationSource
from groundup.data.sampler import Mixture, TokenWindows, evaluation_batches
from groundup.data.shards import INDEX, TokenShards
from groundup.inference.session import answer_stop_ids
from groundup.model.config import TransformerConfig
from groundup.model.directory import check_replaceable, save_model_directory
from groundup.model.initialize import has_room_for_induction, plant_induction_circuit
from groundup.model.transformer import Transformer, build
from groundup.recipes.composition import check_trusted, composition, file_parts
from groundup.recipes.loading import lineage_digest, open_model
from groundup.recipes.settings import (
    ExecutionSettings,
    ModelSettings,
    PretrainSettings,
    SftSettings,
    SpeedrunSettings,
)
from groundup.recipes.watch import pretraining_monitor, tuning_monitor
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import ChatTemplate, EncodedChat, Message, default_chat_template
from groundup.train.config import TrainConfig
from groundup.train.contracts import BatchSource
from groundup.train.distributed import from_first_process, rank_and_world_size
from groundup.train.objectives import next_token_loss
from groundup.train.probe import ProbeResult, is_large, probe
from groundup.train.resume import weights_digest
from groundup.train.trainer import Trainer, TrainResult

EVALUATION_ROWS = 16
# Contexts for which storing the pattern of attention is tried (groundup.model.ops.attention_stored).
STORED_FROM, STORED_TO = 256, 1_024
# Tokens in one pass of tuning on a CPU, where more are no faster and need more memory (docs/experiments.md).
TUNING_TOKENS = 5_120
# Tokens of one pass of pretraining on a CPU: half as many are up to 8 % slower in small models, twice as many no faster
# and need nearly twice the memory (docs/experiments.md).
PASS_TOKENS = 2_048
# Updates of up to so many tokens are split by the rule alone, and on a GPU not at all: the order of sums then does not hang
# on a measurement, so that the same command gives the same weights again.
UNMEASURED_TOKENS = 4_096
# Tokens of a conversation that are trained on where the user did not say: memory grows with them.
LONGEST_CONVERSATION = 1_024
# What a validation pass may cost: more tokens make the curve no smoother to the eye.
EVALUATION_TOKENS = 60_000


@dataclass(frozen=True)
class TrainingRun:
    """Where a stage works and whom it tells.

    Attributes:
        work: checkpoints and the recorded execution plan.
        sink: receives the metrics.
        stop: asks for a checkpoint and an end.
        replan: choose a new execution plan although one is recorded.
    """

    work: Path
    sink: MetricsSink
    stop: StopRequest
    replan: bool = False


def model_config(settings: ModelSettings, tokenizer: Tokenizer) -> TransformerConfig:
    """The typed composition of the settings, with the tokenizer's vocabulary and special ids."""
    return composition(
        settings,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )


def shape_config(settings: SpeedrunSettings) -> TransformerConfig:
    """The composition before there is a tokenizer: right in every size, without special ids."""
    return composition(settings.model, vocab_size=settings.tokenizer.vocab_size)


def unprobed_plan(settings: ExecutionSettings, rows: int) -> ExecutionPlan:
    """The plan as far as the settings give it; what is `auto` stands at its safe value."""
    return ExecutionPlan(
        device=resolve_device(settings.device),
        precision="float32" if settings.precision == "auto" else settings.precision,
        threads=settings.threads or available_cpus(),
        micro_batch=settings.micro_batch or rows,
        matmul="torch" if settings.matmul == "auto" else settings.matmul,
        attention="fused" if settings.attention == "auto" else settings.attention,
        compile=settings.compile == "on",
        world_size=rank_and_world_size()[1],
        machine=machine_fingerprint(),
    )


def choose_plan(
    model: Transformer, settings: ExecutionSettings, config: TrainConfig, *, rows: int, context: int
) -> ExecutionPlan:
    """The plan of a stage: as given where everything is given, probed otherwise."""
    if settings.precision != "auto" and settings.micro_batch is not None:
        return unprobed_plan(settings, rows)
    return probe_plan(model, settings, config, rows=rows, context=context).plan


def probe_plan(
    model: Transformer,
    settings: ExecutionSettings,
    config: TrainConfig,
    *,
    rows: int,
    context: int,
    trained_share: float = 1.0,
    may_compile: bool = True,
) -> ProbeResult:
    """Measure what the settings leave open (precision, kernels, micro-batch) on random tokens of the run's shape.

    Args:
        may_compile: try torch.compile in long runs; with batches of many shapes it would compile again and again.
        trained_share: of the tokens, those with a target; only they go through the head, which costs a large vocabulary
            a good part of the time.
    """
    plan = unprobed_plan(settings, rows)
    generator = torch.Generator().manual_seed(0)

    def make_batch(count: int) -> Batch:
        ids = torch.randint(model.config.vocab_size, (count, context + 1), generator=generator)
        is_trained = torch.rand((count, context), generator=generator) < trained_share
        return Batch(inputs=ids[:, :-1], targets=ids[:, 1:].where(is_trained, IGNORE_INDEX))

    per_process = max(1, rows // plan.world_size)
    sizes = [settings.micro_batch] if settings.micro_batch else pass_sizes(per_process, context, plan.device)
    # Shorter contexts gain nothing by it, and longer ones would store too much.
    tries_compile = may_compile and settings.compile == "auto"
    may_store = settings.attention == "auto" and plan.device == "cpu" and STORED_FROM <= context <= STORED_TO
    return probe(
        model,
        next_token_loss,
        make_batch,
        plan,
        micro_batches=sizes,
        precisions=None if settings.precision == "auto" else (settings.precision,),
        matmuls=None if settings.matmul == "auto" else (settings.matmul,),
        attentions=("fused", "stored") if may_store else (plan.attention,),
        compile_for=round(config.num_steps * rows * context * trained_share) if tries_compile else None,
        config=config,
    )


def settled_execution(
    asked: ExecutionSettings, chosen: Mapping[str, Any], *, rows: int, may_compile: bool = True
) -> ExecutionSettings:
    """The settings with everything filled in that a probe chose, so that a stage under them does not probe again.

    Args:
        asked: by the user.
        chosen: fields of the probe's execution plan.
        rows: sequences in one pass.
        may_compile: False for a stage whose batches have many shapes: it is compiled only where the user says "on".
    """
    compiled = asked.compile
    if compiled == "auto":
        compiled = "on" if may_compile and chosen["compile"] else "off"
    return asked.replace(
        device=chosen["device"],
        precision=chosen["precision"],
        threads=chosen["threads"],
        micro_batch=rows,
        matmul=chosen["matmul"],
        attention=chosen["attention"],
        compile=compiled,
    )


def pass_sizes(rows: int, context: int, device: str) -> list[int]:
    """Micro-batches worth trying, from small to large; a single one for small updates.

    Args:
        rows: of one update and process.
        context: tokens of a row.
        device: where it runs.
    """
    tokens = rows * context
    if device == "cpu":
        smallest = max(1, min(rows, PASS_TOKENS // context))
    else:
        smallest = rows if tokens <= UNMEASURED_TOKENS else max(1, rows // 2)
    sizes = [smallest]
    while tokens > UNMEASURED_TOKENS and sizes[-1] < rows:
        sizes.append(min(rows, 2 * sizes[-1]))
    return sizes


def settled_plan(
    run: TrainingRun, execution: ExecutionSettings, make_plan: Callable[[], ExecutionPlan]
) -> ExecutionPlan:
    """The plan that this stage began with, or a new one that is recorded before the first step.

    It is recorded apart from the checkpoints, so that a run killed before its first checkpoint begins again under
    the same plan.

    Raises:
        PlanError: when the recorded plan cannot be repeated here, or was made for other settings than those given now,
            and no new one was asked for.
    """
    path, asked = run.work / "plan.json", run.work / "execution.json"

    def recorded_or_new() -> ExecutionPlan:
        if path.is_file() and not run.replan:
            _check_asked_alike(asked, execution)
            return ExecutionPlan(**read_json(path))
        plan = make_plan()
        write_json(asked, execution.to_dict())
        write_json(path, plan.to_dict())
        return plan

    plan = from_first_process(recorded_or_new)
    plan.check_repeatable()
    return plan


def _check_asked_alike(path: Path, execution: ExecutionSettings) -> None:
    """Raise PlanError where settings are given that the recorded plan was not made for; they would do nothing."""
    if not path.is_file():
        return
    recorded, default = read_json(path), ExecutionSettings()
    changed = [
        f"{name} {value!r} (it was made with {recorded.get(name)!r})"
        for name, value in execution.to_dict().items()
        if value != getattr(default, name) and value != recorded.get(name)
    ]
    if changed:
        raise PlanError(
            f"an execution plan is recorded beside {path}, so these settings would do nothing: {', '.join(changed)}. "
            "Run again with --replan to go on under a new plan (the result will differ in the last bits)"
        )


def pretrain(
    shards: Path,
    tokenizer: Tokenizer,
    model_settings: ModelSettings,
    settings: PretrainSettings,
    execution: ExecutionSettings,
    run: TrainingRun,
    out: Path,
    *,
    seed: int,
    lineage: dict[str, Any],
    init_from: Path | None = None,
    trust_code: bool = False,
) -> TrainResult:
    """Train a model on token shards and write it as a model directory.

    Args:
        shards: folder with `train`, `validation` and, where conversations are mixed in, `chat`.
        tokenizer: the one the shards were made with.
        out: the model directory; holds the weights with the lowest validation bits per byte.
        lineage: what `lineage.json` says of the data.
        init_from: a model directory to go on from instead of random weights.
        trust_code: allow parts of kind `file`.
    """
    check_replaceable(out)
    template, generation = default_chat_template(tokenizer), dict[str, Any]()
    train, validation = TokenShards(shards / "train"), TokenShards(shards / "validation")
    for part in (train, validation):
        part.check_tokenizer(tokenizer)
        part.verify()
    if init_from is None:
        config = model_config(model_settings, tokenizer)
        check_trusted(config, trust_code)
        model = build(config, seed=seed, trust_code=trust_code)
        if settings.starting_values == "induction" and has_room_for_induction(model):
            plant_induction_circuit(model, seed=seed)
    else:
        parent = open_model(init_from)
        if parent.tokenizer.fingerprint() != tokenizer.fingerprint():
            raise DataError(
                f"{init_from} was trained with another tokenizer than this one: its ids mean other texts. "
                f"Use the model's own, --tokenizer {init_from}"
            )
        model = parent.model
        template, generation = parent.chat_template or template, parent.generation
    _settle_memory(model)
    plan = settled_plan(
        run,
        execution,
        lambda: choose_plan(
            build(model.config, trust_code=trust_code),
            execution,
            settings.train_config(),
            rows=settings.batch_size,
            context=settings.context,
        ),
    )
    source = pretraining_source(shards, train, settings, plan, seed)
    trainer = Trainer(
        model,
        source,
        next_token_loss,
        settings.train_config().replace(seed=seed),
        plan,
        run.work,
        stage="pretrain",
        sink=run.sink,
        evaluate=lambda module: validation_loss(module, validation, settings.context),
        watch="bits_per_byte",
        stop=run.stop,
        replan=run.replan,
        identity={
            "data": train.index["shards"],
            "tokenizer": tokenizer.fingerprint(),
            "starting_values": settings.starting_values if init_from is None else None,
            "init_from": None if init_from is None else weights_digest(model),
            **code_of(model.config),
        },
        observer=pretraining_monitor(
            model,
            train,
            validation,
            settings,
            run.sink,
            document_rows=document_rows(shards, settings),
            is_fresh=init_from is None,
        ),
    )
    result = trainer.fit()
    trainer.load_best(model)
    facts = {**lineage, "stage": "pretrain", "seed": seed, "context": settings.context}
    _save(
        out,
        model,
        tokenizer,
        plan,
        settings,
        result,
        facts,
        parent=init_from,
        template=template,
        generation=generation,
    )
    return result


def code_of(config: TransformerConfig) -> dict[str, Any]:
    """Hashes of the Python files that a model's parts of kind `file` come from; empty for a model without."""
    hashes = {part.path: sha256_file(Path(part.path)) for part in file_parts(config)}
    return {"code": hashes} if hashes else {}


def _settle_memory(model: Transformer) -> None:
    """Keep freed memory where that pays: with large models the blocks of many shapes would double the peak.

    135 M parameters took 11.6 GB with it and 5.2 GB without, and 15 % less time.
    """
    if not is_large(model):
        keep_freed_memory()


def pretraining_source(
    shards: Path, train: TokenShards, settings: PretrainSettings, plan: ExecutionPlan, seed: int
) -> BatchSource:
    """Windows of the documents, with a share of windows of conversations where the settings ask for it."""
    rank, world_size = rank_and_world_size()
    chat_rows = settings.batch_size - document_rows(shards, settings)
    common: dict[str, Any] = {"context": settings.context, "micro_batch": plan.micro_batch, "seed": seed}
    common |= {"rank": rank, "world_size": world_size}
    documents = TokenWindows(train, batch_size=settings.batch_size - chat_rows, **common)
    if chat_rows == 0:
        return documents
    chat = TokenShards(shards / "chat")
    chat.verify()
    return Mixture([documents, TokenWindows(chat, batch_size=chat_rows, **common)], micro_batch=plan.micro_batch)


def document_rows(shards: Path, settings: PretrainSettings) -> int:
    """Windows of documents in a batch; the others hold conversations, where the settings ask for any."""
    if settings.chat_share == 0 or not (shards / "chat" / INDEX).is_file():
        return settings.batch_size
    world_size = rank_and_world_size()[1]
    # Documents keep at least one row of each process.
    most = settings.batch_size - world_size
    return settings.batch_size - min(most, round(settings.batch_size * settings.chat_share / world_size) * world_size)


def validation_loss(model: nn.Module, shards: TokenShards, context: int) -> dict[str, float]:
    """Mean loss and bits per byte over (at most EVALUATION_TOKENS of) a split, every token predicted once."""
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for batch in evaluation_batches(shards, context, EVALUATION_ROWS):
        loss = next_token_loss(model, batch.to(device))
        total, count = total + float(loss.total), count + loss.count
        if count >= EVALUATION_TOKENS:
            break
    bytes_read = shards.index["text_bytes"] * count / shards.num_tokens
    return {"loss": total / count, "bits_per_byte": total / math.log(2) / bytes_read}


def tuning_rows(settings: SftSettings, device: str, longest: int) -> int:
    """Conversations in one pass of tuning, where the user did not say.

    Args:
        settings: of tuning.
        device: where it runs.
        longest: tokens of the longest conversation.
    """
    if device != "cpu":
        return settings.batch_size
    return max(1, min(settings.batch_size, TUNING_TOKENS // longest))


@dataclass(frozen=True)
class TuningStart:
    """What is known before the first update of tuning.

    Attributes:
        model: with its parent's weights.
        source: the conversations, in their batches.
        held_out: those that are only watched; None when there are none.
        plan: the execution plan.
        probe: the measurement it was made from; None when an earlier run recorded it.
    """

    model: Transformer
    source: ConversationSource
    held_out: ConversationSource | None
    plan: ExecutionPlan
    probe: ProbeResult | None


def encoded_with_progress(
    tokenizer: Tokenizer, template: ChatTemplate, conversations: Sequence[Sequence[Message]]
) -> list[EncodedChat]:
    """`encode_conversations` with its progress shown."""
    with console.progress("sft: encoding", len(conversations), "conversations") as ticker:
        return encode_conversations(tokenizer, template, conversations, on_progress=ticker.advance)


def sft(
    parent: Path | str,
    train: Sequence[Sequence[Message]],
    validation: Sequence[Sequence[Message]],
    settings: SftSettings,
    execution: ExecutionSettings,
    run: TrainingRun,
    out: Path,
    *,
    seed: int,
    lineage: dict[str, Any],
    on_start: Callable[[TuningStart], None] | None = None,
) -> TrainResult:
    """Tune a model on conversations and write the result as a model directory.

    Args:
        parent: the model to begin from, anything that `load_model` takes; its chat template is used, or
            `default_chat_template` where it has none.
        train, validation: conversations as lists of messages.
        on_start: told what is known before the first update.

    Raises:
        DataError: when the rendering of a conversation trains nothing or everything, or none fits.
    """
    check_replaceable(out)
    loaded = open_model(parent)
    model, tokenizer = loaded.model, loaded.tokenizer
    template = loaded.chat_template or default_chat_template(tokenizer)
    pad_id = tokenizer.eos_id if tokenizer.pad_id is None else tokenizer.pad_id
    if pad_id is None:
        raise DataError(f"{parent} has a tokenizer without a padding token: add one to its tokenizer_config.json")
    chats = encoded_with_progress(tokenizer, template, train)
    longest = _longest(settings, chats, model.config.max_position_embeddings)
    _settle_memory(model)
    measured: list[ProbeResult] = []

    def probed_plan() -> ExecutionPlan:
        rows = tuning_rows(settings, resolve_device(execution.device), longest)
        measured.append(
            probe_plan(
                build(model.config),
                execution,
                settings.train_config(),
                rows=rows,
                context=min(128, longest),
                trained_share=sum(sum(chat.trained) for chat in chats) / sum(len(chat.ids) for chat in chats),
                may_compile=False,
            )
        )
        return measured[0].plan

    plan = settled_plan(run, execution, probed_plan)
    rank, world_size = rank_and_world_size()
    source = ConversationSource(
        chats,
        batch_size=settings.batch_size,
        micro_batch=plan.micro_batch,
        seed=seed,
        max_length=longest,
        pad_id=pad_id,
        pad_to_multiple=16,
        rank=rank,
        world_size=world_size,
    )
    held_out = _held_out(encoded_with_progress(tokenizer, template, validation), longest, pad_id, seed)
    trainer = Trainer(
        model,
        source,
        next_token_loss,
        settings.train_config().replace(seed=seed),
        plan,
        run.work,
        stage="sft",
        sink=run.sink,
        evaluate=None
        if held_out is None
        else lambda module: conversation_loss(module, held_out, max_tokens=EVALUATION_TOKENS),
        watch="loss",
        stop=run.stop,
        replan=run.replan,
        identity={
            "parent": weights_digest(model),
            # The held-out ones choose which weights are kept.
            "conversations": sha256_json([list(map(list, part)) for part in (train, validation)]),
        },
        observer=tuning_monitor(loaded, chats, train, validation, settings, run.sink),
    )
    trainer.check_resumable()  # before anything is measured or written for this run
    if on_start is not None and rank == 0:
        on_start(TuningStart(model, source, held_out, plan, measured[0] if measured else None))
    result = trainer.fit()
    trainer.load_best(model)
    facts = {**lineage, "stage": "sft", "seed": seed, "context": loaded.lineage.get("context")}
    _save(
        out,
        model,
        tokenizer,
        plan,
        settings,
        result,
        facts,
        parent=parent,
        template=template,
        generation=loaded.generation,
    )
    return result


def _longest(settings: SftSettings, chats: Sequence[EncodedChat], max_position_embeddings: int) -> int:
    """Tokens of the longest conversation that is trained on."""
    if settings.max_length is not None:
        return min(settings.max_length, max_position_embeddings)
    needed = max(len(chat.ids) for chat in chats)
    return min(-(-needed // 16) * 16, LONGEST_CONVERSATION, max_position_embeddings)


def _held_out(chats: Sequence[EncodedChat], max_length: int, pad_id: int, seed: int) -> ConversationSource | None:
    """The held-out conversations that fit, as batches; None (with a warning) when there are none."""
    fitting = [chat for chat in chats if len(chat.ids) <= max_length]
    if 0 < len(fitting) < len(chats):
        console.warn(
            f"{len(chats) - len(fitting)} of {len(chats)} held-out conversations have more than {max_length} tokens and "
            "are left out"
        )
    if not fitting:
        reason = f"none of {len(chats)} held-out conversations has at most {max_length} tokens"
        console.warn(
            f"{reason if chats else 'there is no held-out conversation'}: tuning goes on without watching a held-out "
            "loss, and the last weights are kept"
        )
        return None
    return ConversationSource(
        fitting,
        batch_size=EVALUATION_ROWS,
        micro_batch=EVALUATION_ROWS,
        seed=seed,
        max_length=max_length,
        pad_id=pad_id,
    )


def _save(
    out: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    plan: ExecutionPlan,
    settings: PretrainSettings | SftSettings,
    result: TrainResult,
    lineage: dict[str, Any],
    *,
    parent: Path | str | None,
    template: ChatTemplate,
    generation: dict[str, Any],
) -> None:
    """Write the model directory from the first process; the others have the same weights.

    Args:
        lineage: facts of the stage; `context` is the window that the model was trained on.
        template: how conversations are written for this model.
        generation: generation_config.json of the parent, whose settings are kept.
    """
    if rank_and_world_size()[0] != 0:
        return
    facts = {
        **lineage,
        "tokenizer": tokenizer.fingerprint(),
        "parent": None if parent is None else {"folder": str(parent), "lineage": lineage_digest(parent)},
        "settings": settings.to_dict(),
        "execution": plan.to_dict(),
        "steps": result.steps,
        "best_step": result.best_step,
        "trained_tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        "versions": {"groundup": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    # Generation stops where a turn ends, where a document ends, and where the parent stopped.
    ends = {"eos_token_id": answer_stop_ids(tokenizer, template, generation)}
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    generation = {"max_new_tokens": 256} | generation | ids | ends
    save_model_directory(out, model, tokenizer, chat_template=template.source, lineage=facts, generation=generation)
