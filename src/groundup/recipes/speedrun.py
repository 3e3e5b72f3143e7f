"""The main job: text in, a chat model out. It only wires the stages and keeps the ledger of what is finished."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.core import console
from groundup.core.errors import DataError, GroundupError, UsageError
from groundup.core.execution import peak_memory_bytes
from groundup.core.files import read_json, sha256_file, sha256_json, write_json
from groundup.core.interrupt import StopRequest, stop_on_signal
from groundup.core.metrics import JsonlSink
from groundup.core.rundir import RunDir
from groundup.core.seeds import random_for
from groundup.data.corpus import Corpus, read_corpus
from groundup.data.named import NAMED_SOURCES
from groundup.data.sources import require_enough
from groundup.recipes.composition import file_parts
from groundup.recipes.corpus import (
    make_corpus,
    make_shards,
    make_tokenizer,
    read_examples,
    source_fingerprint,
)
from groundup.recipes.dial import check_overrides, settings_for, smallest_corpus_bytes
from groundup.recipes.evaluation import evaluate_run
from groundup.recipes.plan import Plan, fit_to_budget, make_plan, show_plan
from groundup.recipes.report import write_report
from groundup.recipes.settings import CorpusSettings, SpeedrunSettings
from groundup.recipes.training import (
    LONGEST_CONVERSATION,
    TrainingRun,
    pretrain,
    settled_execution,
    sft,
    shape_config,
    tuning_rows,
    unprobed_plan,
)
from groundup.tokenizer import load_tokenizer
from groundup.tokenizer.chat import Message, default_chat_template, encode_chat

DEFAULT_DEPTH = 4


@dataclass(frozen=True)
class SpeedrunResult:
    """Where everything lies, and how the prediction held."""

    run: Path
    base: Path
    chat: Path
    report: Path
    plan: Plan
    seconds: float


def speedrun(
    overrides: dict[str, Any] | None = None,
    *,
    run: Path,
    budget_s: float | None = None,
    replan: bool = False,
) -> SpeedrunResult:
    """Run every stage that is not finished yet, and write `run/report.html`.

    Args:
        overrides: nested settings that replace the dial's (see `SpeedrunSettings`).
        run: the run's folder; made when missing, continued when there.
        budget_s: choose depth and steps so that the whole takes about so many seconds.
        replan: choose a new execution plan although one is recorded.

    Raises:
        Interrupted: after a checkpoint; the same call goes on from there.
        GroundupError: for an unusable source or settings, saying what to do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "speedrun works in one process: under torchrun run its stages, of which pretrain and sft use all processes"
        )
    with stop_on_signal() as stop:
        work = _Speedrun(overrides or {}, run, budget_s, replan, stop)
        try:
            return work.work()
        finally:
            work.run.unlock()


class _Speedrun:
    def __init__(
        self, overrides: dict[str, Any], run: Path, budget_s: float | None, replan: bool, stop: StopRequest
    ) -> None:
        check_overrides(overrides)
        self.overrides, self.budget_s, self.replan, self.stop = overrides, budget_s, replan, stop
        self.run = RunDir(run)
        self.corpus_settings = CorpusSettings(**overrides.get("corpus", {}))
        self.seed = int(overrides.get("seed", 0))

    def work(self) -> SpeedrunResult:
        path = self.run.path
        corpus = self._corpus()
        settings, plan = self._plan(corpus)
        self._tokenizer(corpus, settings)
        self._pretrain(settings, plan)
        self._sft(corpus, settings, plan)
        self._evaluate(corpus, settings)
        self._report()
        seconds = sum(float(entry["seconds"]) for entry in self.run.ledger().values())
        self._summary(plan, seconds)
        return SpeedrunResult(path, path / "base", path / "chat", path / "report.html", plan, seconds)

    def _stage(
        self, name: str, title: str, inputs: dict[str, Any], work: Callable[[], tuple[list[Path], dict[str, Any]]]
    ) -> None:
        """Run a stage unless it is finished from these inputs, and say which of the two."""
        self.stop.check(f"stopped before {name}: the same command goes on from there")
        if self.run.is_current(name, inputs):
            console.say(f"{title}: finished before, from the same inputs")
            return
        console.heading(title)

        def measured() -> tuple[list[Path], dict[str, Any]]:
            # Training stops at a checkpoint; everything else is short and begins anew.
            again = self.stop.at_once(f"stopped during {name}: the same command goes on from there")
            with nullcontext() if name in ("pretrain", "sft") else again:
                outputs, facts = work()
            return outputs, {**facts, "peak_bytes": peak_memory_bytes()}

        self.run.stage(name, inputs, measured)

    def _corpus(self) -> Corpus:
        folder = self.run.path / "corpus"
        settings = self.corpus_settings
        source = settings.source
        if source not in NAMED_SOURCES:
            source = str(Path(source).expanduser().resolve())
        earlier = self.run.facts("corpus").get("source", source)
        if earlier != source:
            raise UsageError(
                f"{self.run.path} holds a run on {earlier}, not on {source}: choose another --name, or remove the folder"
            )
        inputs = {
            "settings": settings.to_dict(),
            "seed": self.seed,
            "source": source_fingerprint(settings.source),
            "version": __version__,
        }

        def work() -> tuple[list[Path], dict[str, Any]]:
            corpus = make_corpus(settings, folder, seed=self.seed, check=self._require_enough)
            splits = corpus.manifest["splits"]
            total = sum(split["text_bytes"] for split in splits.values())
            documents = sum(split["documents"] for split in splits.values())
            console.say(f"{documents:,} documents, {console.format_bytes(total)} of text from {settings.source}")
            return sorted(folder.rglob("*.json*")), {"source": source}

        self._stage("corpus", "Corpus", inputs, work)
        return read_corpus(folder)

    def _require_enough(self, text_bytes: int) -> None:
        settings = settings_for(self.overrides.get("depth", DEFAULT_DEPTH), text_bytes, self.overrides)
        if file_parts(shape_config(settings)):
            raise UsageError("speedrun takes no parts of kind file: use  groundup pretrain --config FILE --trust-code")
        needed, advice = smallest_corpus_bytes(settings)
        require_enough(text_bytes, needed, purpose=f"depth {settings.depth}", advice=advice)

    def _plan(self, corpus: Corpus) -> tuple[SpeedrunSettings, Plan]:
        """The plan of an earlier start of this very run, or a new one; it is printed before anything long begins."""
        path = self.run.path / "plan.json"
        # What the numbers are measured on changes nothing before the evaluation.
        training = {table: values for table, values in self.overrides.items() if table != "evaluation"}
        asked = {
            "overrides": training,
            "budget_s": self.budget_s,
            "corpus": sha256_json(corpus.manifest["splits"]),
        }
        recorded = read_json(path) if path.is_file() else {}
        is_same = recorded.pop("asked", None) == asked
        train_bytes = corpus.num_bytes("train")
        if is_same:
            chosen = SpeedrunSettings(**recorded["settings"])
            evaluation = {"context": chosen.pretrain.context, **self.overrides.get("evaluation", {})}
            settings = SpeedrunSettings(**{**chosen.to_dict(), "evaluation": evaluation})
            # A new plan of execution must not change what is trained, or finished work would be thrown away.
            plan = (
                make_plan(settings, train_bytes, budget_s=self.budget_s)
                if self.replan
                else Plan(**{**recorded, "settings": settings.to_dict()})
            )
        elif self.budget_s is not None:
            settings, probe = fit_to_budget(self.budget_s, train_bytes, self.overrides)
            plan = make_plan(settings, train_bytes, budget_s=self.budget_s, probe=probe)
        else:
            settings = settings_for(self.overrides.get("depth", DEFAULT_DEPTH), train_bytes, self.overrides)
            plan = make_plan(settings, train_bytes)
        self._require_enough(sum(corpus.num_bytes(split) for split in ("train", "validation", "test")))
        write_json(path, {**plan.to_dict(), "asked": asked})
        show_plan(plan)
        return settings, plan

    def _tokenizer(self, corpus: Corpus, settings: SpeedrunSettings) -> None:
        folder, shards = self.run.path / "tokenizer", self.run.path / "shards"
        inputs = {
            "corpus": sha256_json(corpus.manifest["splits"]),
            "chat": sha256_file(corpus.folder / "chat" / "train.jsonl"),
            "settings": settings.tokenizer.to_dict(),
            "max_length": settings.model.max_position_embeddings,
            "chat_share": settings.pretrain.chat_share > 0,
            "seed": self.seed,
        }

        def work() -> tuple[list[Path], dict[str, Any]]:
            tokenizer = make_tokenizer(
                corpus, settings.tokenizer, folder, max_length=settings.model.max_position_embeddings
            )
            make_shards(corpus, tokenizer, shards, chat=settings.pretrain.chat_share > 0, seed=self.seed)
            self._check_conversations(corpus, settings)
            files = [*folder.glob("*.json"), *shards.rglob("*.json"), *shards.rglob("*.bin")]
            return sorted(files), {"vocab_size": tokenizer.vocab_size}

        self._stage("tokenizer", "Tokenizer", inputs, work)

    def _training_run(self, name: str) -> TrainingRun:
        return TrainingRun(self.run.path / name, JsonlSink(self.run.metrics_path), self.stop, self.replan)

    def _lineage(self, settings: SpeedrunSettings) -> dict[str, Any]:
        manifest = read_json(self.run.path / "corpus" / "corpus.json")
        return {
            "recipe": f"speedrun --depth {settings.depth}",
            "source": settings.corpus.source,
            "licenses": manifest.get("licenses"),
            "data_sha256": {split: entry["sha256"] for split, entry in manifest["splits"].items()},
        }

    def _pretrain(self, settings: SpeedrunSettings, plan: Plan) -> None:
        shards, out = self.run.path / "shards", self.run.path / "base"
        execution = settled_execution(settings.execution, plan.execution, rows=int(plan.execution["micro_batch"]))
        indices = sorted(shards.rglob("index.json"))
        inputs = {
            "shards": [sha256_file(path) for path in indices],
            "model": settings.model.to_dict(),
            "settings": settings.pretrain.to_dict(),
            "execution": self.overrides.get("execution", {}),
            "seed": self.seed,
        }

        def work() -> tuple[list[Path], dict[str, Any]]:
            self._begin("pretrain", inputs)
            result = pretrain(
                shards,
                load_tokenizer(self.run.path / "tokenizer"),
                settings.model,
                settings.pretrain,
                execution,
                self._training_run("pretrain"),
                out,
                seed=self.seed,
                lineage=self._lineage(settings),
            )
            facts = {"steps": result.steps, "tokens": result.tokens, "best_value": result.best_value}
            return _files(out), {**facts, "training_s": result.seconds, "earlier_s": result.earlier_s}

        self._stage("pretrain", "Pretraining", inputs, work)

    @staticmethod
    def _tuning_rows(settings: SpeedrunSettings, plan: Plan) -> int:
        longest = min(settings.sft.max_length or LONGEST_CONVERSATION, settings.model.max_position_embeddings)
        return tuning_rows(settings.sft, plan.execution["device"], longest)

    def _sft(self, corpus: Corpus, settings: SpeedrunSettings, plan: Plan) -> None:
        base, out = self.run.path / "base", self.run.path / "chat"
        # Batches of tuning are short and of many shapes: attention that stores its pattern, and compiling, are for long ones.
        rows = settings.execution.micro_batch or self._tuning_rows(settings, plan)
        chosen = plan.execution | {"attention": unprobed_plan(settings.execution, rows).attention}
        execution = settled_execution(settings.execution, chosen, rows=rows, may_compile=False)
        inputs = {
            "parent": sha256_file(base / "model.safetensors"),
            "chat": sha256_file(corpus.folder / "chat" / "train.jsonl"),
            "settings": settings.sft.to_dict(),
            "execution": self.overrides.get("execution", {}),
            "seed": self.seed,
        }

        def work() -> tuple[list[Path], dict[str, Any]]:
            self._begin("sft", inputs)
            result = sft(
                base,
                self._tuning_conversations(corpus, settings),
                [example.messages for example in read_examples(corpus.folder, "validation")],
                settings.sft,
                execution,
                self._training_run("sft"),
                out,
                seed=self.seed,
                lineage=self._lineage(settings),
            )
            facts = {"steps": result.steps, "tokens": result.tokens, "best_value": result.best_value}
            return _files(out), {**facts, "training_s": result.seconds, "earlier_s": result.earlier_s}

        self._stage("sft", "Tuning on conversations", inputs, work)

    def _tuning_conversations(self, corpus: Corpus, settings: SpeedrunSettings) -> list[list[Message]]:
        """The conversations to tune on: no more than twice as many as tuning will see."""
        examples = read_examples(corpus.folder, "train")
        most = 2 * settings.sft.num_steps * settings.sft.batch_size
        if len(examples) > most:
            examples = random_for(self.seed, "sft", "conversations").sample(examples, most)
        return [example.messages for example in examples]

    def _check_conversations(self, corpus: Corpus, settings: SpeedrunSettings) -> None:
        """Find out before the training whether there will be anything to tune on."""
        tokenizer = load_tokenizer(self.run.path / "tokenizer")
        template = default_chat_template(tokenizer)
        examples = read_examples(corpus.folder, "train")
        if not examples:
            raise DataError(
                f"no questions could be made from {settings.corpus.source}: they need paragraphs of prose. A model "
                "without tuning: groundup corpus, tokenizer train, pretrain; then sft with conversations of your own"
            )
        longest = min(settings.sft.max_length or LONGEST_CONVERSATION, settings.model.max_position_embeddings)
        lengths = (len(encode_chat(tokenizer, template, example.messages).ids) - 1 for example in examples)
        shortest = longest + 1
        for length in lengths:
            shortest = min(shortest, length)
            if shortest <= longest:
                return
        raise DataError(
            f"all {len(examples)} conversations made from this text are longer than sft.max_length ({longest} tokens): "
            "set a larger --sft.max-length (and --model.max-position-embeddings), or a larger --tokenizer.vocab-size"
        )

    def _begin(self, stage: str, inputs: dict[str, Any]) -> None:
        """Clear what an earlier run with other inputs left of this stage; its checkpoints would not fit."""
        self.run.lock()
        work = self.run.path / stage
        marker = work / "inputs.json"
        digest = sha256_json(inputs)
        if work.is_dir() and not marker.is_file() and any(not path.name.startswith(".") for path in work.iterdir()):
            raise DataError(f"{work} holds files that no run left there: choose another --name, or move them away")
        if marker.is_file() and read_json(marker) != digest:
            console.say(f"{stage}: the inputs changed, beginning anew")
            remove_folder(work)
        if not marker.is_file():
            JsonlSink(self.run.metrics_path).rewind(stage, -1)
            write_json(marker, digest)

    def _evaluate(self, corpus: Corpus, settings: SpeedrunSettings) -> None:
        base, chat, out = self.run.path / "base", self.run.path / "chat", self.run.path / "eval"
        inputs = {
            "base": sha256_file(base / "model.safetensors"),
            "chat": sha256_file(chat / "model.safetensors"),
            "questions": sha256_file(corpus.folder / "chat" / "test.jsonl"),
            "corpus": sha256_json(corpus.manifest["splits"]),
            "settings": settings.evaluation.to_dict(),
            "seed": self.seed,
        }
        self._stage(
            "eval",
            "Evaluation",
            inputs,
            lambda: (evaluate_run(corpus, base, chat, settings.evaluation, out, seed=self.seed), {}),
        )

    def _report(self) -> None:
        ledger = self.run.ledger()
        ledger.pop("report", None)
        inputs = {"ledger": ledger, "plan": sha256_file(self.run.path / "plan.json"), "version": __version__}
        self._stage("report", "Report", inputs, lambda: ([write_report(self.run.path)], {}))

    def _summary(self, plan: Plan, seconds: float) -> None:
        path = self.run.path
        language = read_json(path / "eval" / "language.json")
        answers = read_json(path / "eval" / "answers.json")
        ours = language["methods"][0]
        console.heading("Done")
        rows = [
            ["held-out text", f"{ours['bits_per_byte']:.3f} bits per byte"],
            *(
                [group, ", ".join(f"{name} {100 * share['accuracy']:.0f} %" for name, share in models.items())]
                for group, models in answers["groups"].items()
            ),
            [
                "time",
                f"{console.format_seconds(seconds)}, predicted {console.format_seconds(plan.predicted['total_s'])}",
            ],
            ["report", str(path / "report.html")],
            ["talk to it", f"groundup chat {path / 'chat'}"],
        ]
        console.facts(rows)


def remove_folder(folder: Path) -> None:
    """Delete a folder of this run; what cannot be deleted is named."""
    import shutil

    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise GroundupError(f"cannot remove {folder}: {error.strerror or error}") from None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
