"""The stages as verbs of their own: each works on folders and model directories that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core import console
from groundup.core.config import merge
from groundup.core.errors import DataError, UsageError
from groundup.core.execution import peak_memory_bytes, resolve_device
from groundup.core.files import check_writable, read_json, sha256_file
from groundup.core.interrupt import stop_on_signal
from groundup.core.metrics import JsonlSink
from groundup.core.seeds import random_for
from groundup.data.chat_files import read_conversations
from groundup.data.corpus import Corpus, read_corpus
from groundup.model.counts import count_parameters
from groundup.model.load import read_config
from groundup.recipes.composition import check_trusted
from groundup.recipes.corpus import current_shards, read_examples
from groundup.recipes.dial import settings_for
from groundup.recipes.evaluation import evaluate_run
from groundup.recipes.loading import check_not_source, check_writes, open_model
from groundup.recipes.settings import EvaluationSettings, ExecutionSettings, SftSettings, SpeedrunSettings
from groundup.recipes.training import TrainingRun, model_config, pretrain, sft
from groundup.recipes.tuning import BEFORE_FILE, announce, compare, default_settings
from groundup.tokenizer import load_tokenizer
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import default_chat_template, encode_chat, turn_end_id
from groundup.train.distributed import from_first_process, process_group, rank_and_world_size
from groundup.train.trainer import TrainResult

Conversation = list[dict[str, str]]
HELD_OUT_SHARE = 0.05


def work_folder(out: Path) -> Path:
    """Where a stage keeps checkpoints, plan and metrics: beside its result."""
    out = out.resolve()
    return out.with_name(f"{out.name}.work")


def _check_is_of_this_run(out: Path) -> None:
    """Raise UsageError where `out` is a model and the run that made it, which would go on, is not beside it."""
    if (out / "config.json").is_file() and not (work_folder(out) / "checkpoints").is_dir():
        raise UsageError(
            f"--out {out} is a model already, and the checkpoints of the run that made it are not in {work_folder(out)}: "
            "name another folder, or remove this one"
        )


def dialled_settings(
    corpus: Corpus, tokenizer: Tokenizer, *, depth: int, overrides: dict[str, Any]
) -> SpeedrunSettings:
    """The settings of pretraining: the dial's for this corpus and tokenizer, then those given."""
    given = {"pretrain" if table == "train" else table: values for table, values in overrides.items()}
    return settings_for(
        depth, corpus.num_bytes("train"), merge({"tokenizer": {"vocab_size": max(260, tokenizer.vocab_size)}}, given)
    )


def pretrain_stage(
    corpus_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    *,
    depth: int,
    init_from: Path | None,
    seed: int,
    replan: bool,
    trust_code: bool = False,
    overrides: dict[str, Any],
) -> TrainResult:
    """Tokenise a corpus if that is not done yet, and train a model directory on it."""
    corpus, tokenizer = read_corpus(corpus_folder), load_tokenizer(tokenizer_folder)
    check_writable(out)
    _check_is_of_this_run(out)
    work = work_folder(out)
    dialled = dialled_settings(corpus, tokenizer, depth=depth, overrides=overrides)
    if init_from is None:
        check_trusted(model_config(dialled.model, tokenizer), trust_code)  # before the corpus is tokenised
    shards = work / "shards"
    chat = dialled.pretrain.chat_share > 0
    with process_group(resolve_device(dialled.execution.device)), stop_on_signal() as stop:
        from_first_process(lambda: current_shards(corpus, tokenizer, shards, chat=chat, seed=seed))
        result = pretrain(
            shards,
            tokenizer,
            dialled.model,
            dialled.pretrain,
            dialled.execution,
            TrainingRun(work, JsonlSink(work / "metrics.jsonl"), stop, replan),
            out,
            seed=seed,
            lineage={
                "recipe": f"pretrain --depth {depth}",
                "source": corpus.manifest.get("sources"),
                "data_sha256": {split: entry["sha256"] for split, entry in corpus.manifest["splits"].items()},
            },
            init_from=init_from,
            trust_code=trust_code,
        )
    _tell(out, result, "bits per byte on the validation split")
    return result


def read_chats(data: Path, *, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to tune on and to watch: a corpus folder's own, or a file of which a twentieth is held out."""
    if data.is_dir():
        return (
            [example.messages for example in read_examples(data, "train")],
            [example.messages for example in read_examples(data, "validation")],
        )
    conversations = read_conversations(data)
    if len(conversations) < 2:
        raise DataError(f"{data} holds {len(conversations)} conversation(s): two are needed, one to hold out")
    random_for(seed, "sft", "held out").shuffle(conversations)
    held_out = max(1, round(HELD_OUT_SHARE * len(conversations)))
    return conversations[held_out:], conversations[:held_out]


def sft_stage(model: str, data: Path, out: Path, *, seed: int, replan: bool, overrides: dict[str, Any]) -> TrainResult:
    """Tune a model on a file of conversations or on a corpus folder's; say before what it will cost, and write a page
    with the held-out loss and answers before and after."""
    check_not_source(out, model)
    check_writes(model, True)
    check_writable(out)
    _check_is_of_this_run(out)
    train, validation = read_chats(data, seed=seed)
    parameters = count_parameters(read_config(model)).total
    settings = SftSettings(**default_settings(overrides.get("train", {}), len(train), parameters))
    work = work_folder(out)
    execution = ExecutionSettings(**overrides.get("execution", {}))
    with process_group(resolve_device(execution.device)), stop_on_signal() as stop:
        result = sft(
            model,
            train,
            validation,
            settings,
            execution,
            TrainingRun(work, JsonlSink(work / "metrics.jsonl"), stop, replan),
            out,
            seed=seed,
            lineage={
                "recipe": "sft",
                "source": str(data),
                "data_sha256": sha256_file(data if data.is_file() else data / "chat" / "train.jsonl"),
            },
            on_start=lambda start: announce(start, settings, work),
        )
        peak = peak_memory_bytes()
        before = work / BEFORE_FILE
        _tell(
            out,
            result,
            "loss on held-out conversations",
            before=read_json(before)["loss"] if before.is_file() else None,
        )
        if rank_and_world_size()[0] == 0:
            console.say(f"before and after: {compare(model, out, validation, result, work, peak_bytes=peak)}")
    return result


def preview_stage(model: str, data: Path, *, count: int) -> None:
    """Print conversations as the model sees them, with the trained tokens and the stop token coloured."""
    if count < 1:
        raise UsageError(f"--preview {count}: ask for at least one conversation")
    loaded = open_model(model, writes=True)
    template = loaded.chat_template or default_chat_template(loaded.tokenizer)
    examples = read_conversations(data) if data.is_file() else read_chats(data, seed=0)[0]
    tokenizer = loaded.tokenizer
    stop = turn_end_id(tokenizer, template)
    coloured = console.out.is_terminal
    console.say(
        "trained tokens are green, the stop token is red; the rest is read but not trained"
        if coloured
        else "trained tokens stand between [[ and ]]; the rest is read but not trained"
    )
    for messages in examples[:count]:
        chat = encode_chat(tokenizer, template, messages)
        pieces: list[tuple[str, str]] = []
        was_trained = False
        for token, is_trained in zip(chat.ids, chat.trained, strict=True):
            style = "bold red" if is_trained and token == stop else "green" if is_trained else "dim"
            text = tokenizer.token_bytes(token).decode("utf-8", "replace")
            if not coloured and is_trained != was_trained:
                text = f"[[{text}" if is_trained else f"]]{text}"
            was_trained = is_trained
            pieces.append((text, style))
        if was_trained and not coloured:
            pieces.append(("]]", "dim"))
        console.heading(f"{sum(chat.trained)} of {len(chat.ids)} tokens trained")
        console.coloured(pieces)
        if not any(chat.trained) or all(chat.trained):
            what = "nothing" if not any(chat.trained) else "every token"
            raise DataError(
                f"the template of {model} trains {what} of this conversation: it must mark the assistant's words "
                "with {% generation %} ... {% endgeneration %}"
            )


def evaluate_stage(
    model: str, corpus_folder: Path, out: Path, *, before: str | None, seed: int, overrides: dict[str, Any]
) -> None:
    """Measure a model on the test split of a corpus and print the table."""
    corpus = read_corpus(corpus_folder)
    base, chat = (model, None) if before is None else (before, model)
    lineage = Path(base) / "lineage.json"
    trained = read_json(lineage).get("data_sha256") if lineage.is_file() else None
    mine = corpus.manifest["splits"]["train"]["sha256"]
    if isinstance(trained, dict) and trained.get("train", mine) != mine:
        console.warn(
            f"{base} was trained on another corpus or split than {corpus_folder}: it may have seen what is held out here"
        )
    evaluate_run(corpus, base, chat, EvaluationSettings(**overrides), out, seed=seed)
    show_results(out)


def show_results(folder: Path) -> None:
    """Print what `evaluate_run` left: bits per byte and accuracies with their intervals and verdicts."""
    language, answers = read_json(folder / "language.json"), read_json(folder / "answers.json")
    rows = [[method["name"], f"{method['bits_per_byte']:.3f}", _range(method)] for method in language["methods"]]
    console.table(["held-out text", "bits per byte", "95 % interval"], rows)
    rows = [
        [name, kind, f"{share['correct']}/{share['total']}", f"{100 * share['accuracy']:.1f} %",
         f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"]
        for name, kinds in answers["models"].items()
        for kind, share in kinds.items()
    ]  # fmt: skip
    console.table(["answers of", "kind", "right", "share", "95 % interval"], rows)
    for difference in [*language["differences"], *answers["differences"]]:
        console.say(f"{difference['name']}: {difference['verdict']}")


def _range(method: dict[str, Any]) -> str:
    if method["low"] is None:
        return "too little text"
    return f"{method['low']:.3f} to {method['high']:.3f}"


def _tell(out: Path, result: TrainResult, measure: str, *, before: float | None = None) -> None:
    was = "" if before is None else f"{before:.4f} before, "
    best = ""
    if result.best_value is not None:
        best = f", {measure} {was}{result.best_value:.4f} after step {result.best_step:,} (whose weights are kept)"
    console.say(
        f"{out}: {result.steps:,} steps, {console.format_count(result.tokens)} trained tokens in "
        f"{console.format_seconds(result.seconds)}{best}"
    )
