"""Faults planted on purpose in small trainings, and what `groundup doctor` says of them; then of ten healthy ones.

python -m benchmarks.doctor                 everything, some minutes on one thread; writes benchmarks/results/doctor.json
python -m benchmarks.doctor --part 1/4      a quarter of the cases, merged into that file
python -m benchmarks.doctor --only healthy  the cases whose name holds a word, merged likewise

Each run goes through the recipes as a user's does; a fault is put into the text, the batches, the model or the files.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.harness import RESULTS, machine
from groundup.core import console
from groundup.core.files import read_json, write_json
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import JsonlSink
from groundup.data.batch import Batch
from groundup.data.document import Document
from groundup.data.shards import write_shards
from groundup.model.transformer import Transformer, build
from groundup.recipes import training
from groundup.recipes.doctor import StageFolders, diagnose
from groundup.recipes.settings import ExecutionSettings, ModelSettings, PretrainSettings, SftSettings
from groundup.tokenizer import CharTokenizer, train_bpe
from groundup.tokenizer.base import Tokenizer
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE, Message
from groundup.train.contracts import BatchSource
from groundup.train.health.finding import Diagnosis

EXECUTION = ExecutionSettings(device="cpu", precision="float32", threads=1, micro_batch=16)
SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "shakespeare" / "input.txt"
SpoilModel = Callable[[Transformer], None]
SpoilBatch = Callable[[int, Batch], Batch]


@dataclass(frozen=True)
class Case:
    """One training, and what should be found.

    Attributes:
        name: of the fault, or of the healthy run.
        expected: the rules of which one must find it; empty for a healthy run.
        text: `words` (made up), `plays` (Shakespeare, where it lies beside the checkout) or `notes` (a few pages).
        tokenizer: `bpe` or `char`.
        model, train: settings.
        tune: train on conversations after a healthy pretraining, with these settings.
        spoil_model, spoil_batch, spoil_chat, spoil_files: put the fault in.
        template: chat template of the model that is tuned.
        seed: of everything.
    """

    name: str
    expected: tuple[str, ...] = ()
    text: str = "words"
    tokenizer: str = "bpe"
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] | None = None
    spoil_model: SpoilModel | None = None
    spoil_batch: SpoilBatch | None = None
    spoil_chat: Callable[[list[list[Message]], list[list[Message]]], None] | None = None
    spoil_files: Callable[[Path], None] | None = None
    spoil_parent: Callable[[Path], None] | None = None
    template: str = DEFAULT_CHAT_TEMPLATE
    seed: int = 0


def made_up_words(seed: int, count: int, *, vocabulary: int = 300) -> list[Document]:
    """Documents of a language with frequencies like those of words (Zipf) and a few likely followers for each."""
    rng = random.Random(seed)
    letters = random.Random(7)  # the language is one for all seeds, what is said in it is not
    words = [
        "".join(letters.choice("aeioubdgklmnprst") for _ in range(letters.randint(2, 8))) for _ in range(vocabulary)
    ]
    weights = [1 / (rank + 3) for rank in range(vocabulary)]
    followers = [letters.choices(range(vocabulary), weights, k=5) for _ in range(vocabulary)]
    documents = []
    for index in range(count):
        word, text = rng.randrange(vocabulary), []
        for _ in range(rng.randint(80, 200)):
            word = rng.choice(followers[word]) if rng.random() < 0.85 else rng.choices(range(vocabulary), weights)[0]
            text.append(words[word])
        documents.append(Document(text=" ".join(text) + ".\n", id=f"w{index}", group=f"w{index}", source="made up"))
    return documents


def plays() -> list[Document]:
    """Shakespeare, in pieces; made-up words where it is not here."""
    if not SHAKESPEARE.is_file():
        return made_up_words(1, 700, vocabulary=900)
    text = SHAKESPEARE.read_text(encoding="utf-8")
    pieces = [text[start : start + 1500] for start in range(0, 600_000, 1500)]
    return [Document(text=p, id=f"p{i}", group=f"p{i}", source="plays") for i, p in enumerate(pieces)]


def talks(count: int, seed: int) -> list[list[Message]]:
    """Questions whose answers can be read off them, no two alike."""
    rng = random.Random(seed)
    words = sorted({word.strip(".") for document in made_up_words(0, 40) for word in document.text.split()})
    pairs = dict.fromkeys(tuple(rng.sample(words, 2)) for _ in range(2 * count))
    return [
        [
            {"role": "user", "content": f"please repeat the words {first} and {second}"},
            {"role": "assistant", "content": f"{first}, {second} and once more {first}."},
        ]
        for first, second in list(pairs)[:count]
    ]


class Bench:
    """Makes texts, tokenizers and a base for tuning once, and runs cases in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}

    def documents(self, text: str, seed: int) -> list[Document]:
        if text == "plays":
            return plays()
        return made_up_words(seed, 16 if text == "notes" else 500)

    def tokenizer(self, text: str, kind: str) -> Tokenizer:
        if (text, kind) not in self._tokenizers:
            texts = [document.text for document in self.documents(text, 0)]
            made = CharTokenizer.train(texts) if kind == "char" else train_bpe(texts, 400)
            self._tokenizers[text, kind] = made
        return self._tokenizers[text, kind]

    def run(self, case: Case) -> Diagnosis:
        """Train as the case says, and ask the doctor."""
        folder = self.folder / case.name.replace(" ", "-").replace("/", "-")
        stage = self._tuned(case, folder) if case.tune is not None else self._pretrained(case, folder, spoilt=True)
        return diagnose(stage)

    def _pretrained(self, case: Case, folder: Path, *, spoilt: bool) -> StageFolders:
        work, out = folder / "base.work", folder / "base"
        tokenizer = self.tokenizer(case.text, case.tokenizer)
        documents = self.documents(case.text, case.seed)
        held_out = max(2, len(documents) // 12)
        write_shards(documents[held_out:], tokenizer, work / "shards" / "train")
        write_shards(documents[:held_out], tokenizer, work / "shards" / "validation")
        shape = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 144}
        settings: dict[str, Any] = {
            "num_steps": 120, "context": 64, "batch_size": 16, "learning_rate": 8e-3, "warmup_steps": 6,
            "evaluate_every": 15, "checkpoint_every": 0, "weight_decay": 0.1,
        }  # fmt: skip
        settings |= case.train if spoilt else {}
        with ExitStack() as stack:
            if spoilt:
                _spoil(stack, case)
            training.pretrain(
                work / "shards",
                tokenizer,
                ModelSettings(**({"preset": "qwen3", "max_position_embeddings": 256} | shape | case.model)),
                PretrainSettings(**settings),
                EXECUTION,
                self._training_run(work),
                out,
                seed=case.seed,
                lineage={"recipe": "benchmark", "source": case.text},
            )
        if spoilt and case.spoil_files is not None:
            case.spoil_files(folder)
        return StageFolders("pretrain", _records(work), work, out, work / "shards", None)

    def _tuned(self, case: Case, folder: Path) -> StageFolders:
        self._pretrained(case, folder, spoilt=False)
        parent, work, out = folder / "base", folder / "chat.work", folder / "chat"
        (parent / "chat_template.jinja").write_text(case.template, encoding="utf-8")
        if case.spoil_parent is not None:
            case.spoil_parent(parent)
        train = talks(230, case.seed)
        train, held_out = train[30:], train[:30]
        if case.spoil_chat is not None:
            case.spoil_chat(train, held_out)
        settings: dict[str, Any] = {
            "num_steps": 60, "batch_size": 16, "learning_rate": 4e-3, "warmup_steps": 3, "evaluate_every": 15,
            "checkpoint_every": 0, "max_length": 256,
        }  # fmt: skip
        training.sft(
            parent,
            train,
            held_out,
            SftSettings(**(settings | (case.tune or {}))),
            EXECUTION,
            self._training_run(work),
            out,
            seed=case.seed,
            lineage={"recipe": "benchmark", "source": "talks"},
        )
        return StageFolders("sft", _records(work), work, out, None, None)

    @staticmethod
    def _training_run(work: Path) -> training.TrainingRun:
        return training.TrainingRun(work, JsonlSink(work / "metrics.jsonl"), StopRequest())


def _records(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _spoil(stack: ExitStack, case: Case) -> None:
    """Let the recipe build a spoilt model, and read spoilt batches."""
    source = training.pretraining_source
    spoil_model, spoil_batch = case.spoil_model, case.spoil_batch
    if spoil_model is not None:

        def spoilt_build(*args: Any, **options: Any) -> Transformer:
            model = build(*args, **options)
            spoil_model(model)
            return model

        stack.enter_context(mock.patch.object(training, "build", spoilt_build))
        # The circuit would be written over what was spoilt.
        stack.enter_context(mock.patch.object(training, "has_room_for_induction", lambda model: False))
    if spoil_batch is not None:
        stack.enter_context(
            mock.patch.object(
                training, "pretraining_source", lambda *args, **options: Spoilt(source(*args, **options), spoil_batch)
            )
        )


class Spoilt:
    """A source whose batches are changed on their way."""

    def __init__(self, source: BatchSource, spoil: SpoilBatch) -> None:
        self.source, self.spoil = source, spoil

    def update(self, step: int) -> list[Batch]:
        return [self.spoil(step, batch) for batch in self.source.update(step) if isinstance(batch, Batch)]

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.source.load_state_dict(state)


# ------------------------------------------------------------------------------------------------ faults


def corrupt(step: int, batch: Batch) -> Batch:
    """One update of noise."""
    if step != 80:
        return batch
    ids = torch.randint(0, 256, (batch.inputs.shape[0], batch.inputs.shape[1] + 1), generator=_generator(step))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def shuffle(step: int, batch: Batch) -> Batch:
    """Tokens without their order."""
    ids = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    ids = ids.flatten()[torch.randperm(ids.numel(), generator=_generator(step))].view(ids.shape)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def unshifted(step: int, batch: Batch) -> Batch:
    return Batch(batch.inputs, batch.inputs)


def shifted_twice(step: int, batch: Batch) -> Batch:
    return Batch(batch.inputs[:, :-1].contiguous(), batch.targets[:, 1:].contiguous())


def slow(step: int, batch: Batch) -> Batch:
    time.sleep(0.1)
    return batch


def _generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)


def silence(model: Transformer) -> None:
    """Hold the gates of every second layer far below zero."""
    for layer in list(model.layers)[::2]:
        layer.get_submodule("mlp.gate_proj").register_forward_hook(lambda module, inputs, output: output - 30)


def scale_outputs(factor: float) -> SpoilModel:
    """Multiply the starting values of everything that writes into the residual stream."""

    def spoil(model: Transformer) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(factor)

    return spoil


def weaken(model: Transformer) -> None:
    """Let the second layer write almost nothing."""
    for name in ("attn.o_proj", "mlp.down_proj"):
        model.layers[1].get_submodule(name).register_forward_hook(lambda module, inputs, output: 1e-6 * output)


def cut(model: Transformer) -> None:
    """Let no gradient pass below the second layer."""
    model.layers[1].get_submodule("residual_in").register_forward_hook(lambda module, inputs, output: output.detach())


def enlarge_embedding(model: Transformer) -> None:
    with torch.no_grad():
        model.embed.weight.mul_(100)


class _Infinite:
    """A hook that lets two updates overflow."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.calls += module.training
        return output * torch.inf if self.calls in (40, 60) and module.training else output


def overflow(model: Transformer) -> None:
    model.layers[0].get_submodule("residual_out").register_forward_hook(_Infinite())


def see_ahead(model: Transformer) -> None:
    for layer in model.layers:
        layer.get_submodule("attn").is_causal = False  # type: ignore[assignment]


def leak_documents(folder: Path) -> None:
    """Half of the held-out documents among those that are trained on."""
    documents = made_up_words(0, 500)
    kept = documents[len(documents) // 12 :] + documents[: len(documents) // 24]
    write_shards(kept, bench_tokenizer(folder), folder / "base.work" / "shards" / "train")


def swap_tokenizer(folder: Path) -> None:
    """Put another tokenizer of the same size into the finished model."""
    _swap(folder / "base")


def _swap(model: Path) -> None:
    """A tokenizer of the same size in which most ids mean other texts."""
    size = read_json(model / "config.json")["vocab_size"]
    other = train_bpe([document.text[::-1].upper() for document in made_up_words(5, 60)], size)
    other.save(model, chat_template=DEFAULT_CHAT_TEMPLATE)


def larger_vocabulary(folder: Path) -> None:
    """Shards of a tokenizer with more ids than the model has."""
    documents = made_up_words(0, 200)
    tokenizer = train_bpe([document.text for document in documents], 600)
    for split in ("train", "validation"):
        write_shards(documents, tokenizer, folder / "base.work" / "shards" / split)


def damage(folder: Path) -> None:
    newest = sorted((folder / "base.work" / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])


def bench_tokenizer(folder: Path) -> Tokenizer:
    from groundup.tokenizer import load_tokenizer

    return load_tokenizer(folder / "base")


def leak_talks(train: list[list[Message]], held_out: list[list[Message]]) -> None:
    train.extend(held_out[:10])


USER_TRAINED = DEFAULT_CHAT_TEMPLATE.replace("message['role'] == 'assistant'", "message['role'] == 'user'")
END_TRAINED = DEFAULT_CHAT_TEMPLATE.replace(
    """        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}""",
    """        {{- message['content'] }}
        {%- generation %}
            {{- '<|im_end|>' }}""",
)

PLANTED = (
    Case("learning rate x250", ("learning-rate-high",), train={"learning_rate": 2.0}),
    Case("learning rate x250, muon", ("learning-rate-high",), train={"learning_rate": 2.0, "optimizer": "muon"}),
    Case("learning rate /1000", ("learning-rate-low",), train={"learning_rate": 8e-6}),
    Case("learning rate /1000, muon", ("learning-rate-low",), train={"learning_rate": 8e-6, "optimizer": "muon"}),
    Case(
        "learning rate x2000, no clipping",
        ("gradient-exploding", "learning-rate-high"),
        train={"learning_rate": 16.0, "max_grad_norm": 0.0},
    ),
    Case("silenced units", ("dead-units",), spoil_model=silence),
    Case("output projections x1000", ("residual-exploding",), spoil_model=scale_outputs(1000)),
    Case("a layer that writes nothing", ("residual-vanishing",), spoil_model=weaken),
    Case("a gradient that is cut", ("gradient-vanishing",), spoil_model=cut),
    Case("embedding x100", ("loss-at-start",), spoil_model=enlarge_embedding),
    Case("two updates overflow", ("non-finite-updates",), spoil_model=overflow),
    Case("one update of noise", ("loss-spikes",), spoil_batch=corrupt),
    Case("targets not shifted", ("wrong-targets",), spoil_batch=unshifted),
    Case("targets shifted twice", ("wrong-targets",), spoil_batch=shifted_twice),
    Case("attention sees ahead", ("sees-ahead",), spoil_model=see_ahead),
    Case("tokens out of order", ("ignores-context",), spoil_batch=shuffle),
    Case("a slow source", ("waiting-for-data",), spoil_batch=slow, train={"num_steps": 60}),
    Case("sixteen documents, 80 passes", ("data-starved", "overfit"), text="notes", train={"num_steps": 250}),
    Case("held-out documents in the training text", ("validation-leak",), spoil_files=leak_documents),
    Case("tokenizer of another training", ("tokenizer-mismatch",), spoil_files=swap_tokenizer),
    Case("more ids than the embedding", ("vocabulary-mismatch",), spoil_files=larger_vocabulary),
    Case("a checkpoint cut short", ("damaged-checkpoint",), spoil_files=damage),
    Case("sft: the user's words trained", ("wrong-mask",), tune={}, template=USER_TRAINED),
    Case("sft: only the end of answers trained", ("wrong-mask",), tune={}, template=END_TRAINED),
    Case("sft: tokenizer of another training", ("loss-at-start", "tokenizer-mismatch"), tune={}, spoil_parent=_swap),
    Case("sft: held-out talks trained", ("validation-leak",), tune={}, spoil_chat=leak_talks),
    Case("sft: learning rate x250", ("learning-rate-high",), tune={"learning_rate": 1.0}),
)

GPT2 = {"preset": "gpt2", "tie_word_embeddings": True}
HEALTHY = (
    Case("healthy 0: bpe, adamw", seed=10),
    Case("healthy 1: bpe, muon", seed=11, train={"optimizer": "muon", "learning_rate": 2e-2}),
    Case("healthy 2: characters, adamw", seed=12, tokenizer="char", model={"num_hidden_layers": 2}),
    Case("healthy 3: plays, muon, wider", seed=13, text="plays", tokenizer="char",
         model={"hidden_size": 64, "intermediate_size": 192}, train={"optimizer": "muon", "learning_rate": 1e-2}),
    Case("healthy 4: plays, adamw", seed=14, text="plays", train={"num_steps": 200}),
    Case("healthy 5: gpt2", seed=15, model=GPT2, train={"starting_values": "normal"}),
    Case("healthy 6: llama3, wsd", seed=16, model={"preset": "llama3", "num_hidden_layers": 4},
         train={"schedule": "wsd", "batch_size": 8, "num_steps": 160}),
    Case("healthy 7: one layer, no clipping", seed=17, model={"num_hidden_layers": 1},
         train={"max_grad_norm": 0.0, "context": 32}),
    Case("healthy 8: sft", seed=18, tune={}),
    Case("healthy 9: sft, muon, characters", seed=19, text="plays", tokenizer="char", tune={"optimizer": "muon"}),
)  # fmt: skip

#: A few seconds in all: for the default tests.
QUICK = ("silenced units", "one update of noise")


def measure(cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """Run cases; one row for each with the rules that found something."""
    bench, rows = Bench(folder), []
    for case in cases:
        begun = time.monotonic()
        found = bench.run(case)
        rules = [finding.rule for finding in found.findings]
        rows.append(
            {
                "case": case.name,
                "expected": list(case.expected),
                "found": list(dict.fromkeys(rules)),
                "evidence": {finding.rule: finding.evidence for finding in found.findings},
                "is_right": bool(set(rules) & set(case.expected)) if case.expected else not rules,
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
        console.say(f"{'right' if rows[-1]['is_right'] else 'WRONG'}  {case.name}: {', '.join(rules) or 'no findings'}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--part", default="1/1", help="K/N: the K-th of N parts; each is merged into the results")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    cases = [case for case in (*PLANTED, *HEALTHY) if given.only in case.name][part - 1 :: parts]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(cases, Path(folder))
    path = RESULTS / "doctor.json"
    merged = {row["case"]: row for row in (*(read_json(path)["rows"] if path.is_file() else []), *rows)}
    rows = [merged[case.name] for case in (*PLANTED, *HEALTHY) if case.name in merged]
    write_json(path, {"machine": machine(), "rows": rows})
    show(rows)
    return 0 if all(row["is_right"] for row in rows) else 1


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table, and how many faults were found and how many alarms were false."""
    planted = [row for row in rows if row["expected"]]
    healthy = [row for row in rows if not row["expected"]]
    console.table(
        ["planted", "should find it", "findings"],
        [[row["case"], " or ".join(row["expected"]), ", ".join(row["found"]) or "none"] for row in planted],
    )
    console.say(f"{sum(row['is_right'] for row in planted)} of {len(planted)} planted faults found")
    console.say(f"{sum(len(row['found']) for row in healthy)} false alarms on {len(healthy)} healthy runs")


if __name__ == "__main__":
    raise SystemExit(main())
