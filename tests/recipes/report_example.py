"""An example of a whole run folder, as the recipes leave it; the numbers are made up and fixed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

KINDS = [
    "reading.default",
    "reading.next_parameter",
    "reading.quote",
    "reading.next_word",
    "recall.does",
    "recall.signature",
    "recall.module",
    "recall.refusal",
]
SPAN = "copy the most likely span"


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in value), encoding="utf-8")
    else:
        path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def share(correct: int, total: int) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(correct * (total - correct), total) / total**3)
    value = correct / total
    return {
        "correct": correct,
        "total": total,
        "accuracy": value,
        "low": max(0.0, value - half),
        "high": min(1.0, value + half),
    }


def plan() -> dict[str, Any]:
    return {
        "settings": {
            "seed": 7,
            "depth": 4,
            "corpus": {"source": "python-docs", "validation_fraction": 0.04, "test_fraction": 0.08},
            "tokenizer": {"kind": "bpe", "vocab_size": 4096, "pattern": "llama3"},
            "model": {"preset": "qwen3", "hidden_size": 256, "num_hidden_layers": 4},
            "pretrain": {"num_steps": 900, "learning_rate": 0.003, "schedule": "cosine"},
            "sft": {"num_steps": 400, "learning_rate": 0.0006},
            "execution": {"device": "auto", "precision": "auto", "threads": None, "micro_batch": 8, "compile": False},
        },
        "parameters": 4_198_656,
        "non_embedding_parameters": 3_150_080,
        "train_tokens": 3_686_400,
        "corpus_tokens": 512_345,
        "epochs": 7.195,
        "flops": 1.16e14,
        "predicted": {
            "stages": {"corpus": 4.0, "tokenizer": 9.0, "pretrain": 240.0, "sft": 70.0, "eval": 45.0, "report": 3.0},
            "total_s": 371.0,
            "peak_bytes": 1_900_000_000,
        },
        "execution": {
            "device": "cpu",
            "precision": "float32",
            "threads": 2,
            "micro_batch": 16,
            "compile": False,
            "machine": "AMD EPYC 7B13 | AVX2 | torch 2.13.0+cpu",
        },
        "tokens_per_s": 15_204.5,
        "budget_s": None,
        "asked": {
            "overrides": {"corpus": {"source": "python-docs"}, "depth": 4, "seed": 7, "sft": {"learning_rate": 0.0006}},
            "budget_s": None,
            "corpus": "0" * 64,
        },
    }


def stages() -> dict[str, Any]:
    seconds = {"corpus": 3.812, "tokenizer": 12.4, "pretrain": 251.93, "sft": 66.1, "eval": 58.2}
    peaks = {"pretrain": 1_742_000_000, "sft": 1_501_000_000, "eval": 1_120_000_000}
    return {
        name: {
            "inputs": "0" * 64,
            "outputs": {},
            "seconds": value,
            "finished": "2026-01-02T03:04:05Z",
            **({"peak_bytes": peaks[name]} if name in peaks else {}),
        }
        for name, value in seconds.items()
    }


def corpus() -> dict[str, Any]:
    splits = {"train": (4105, 201, 1_870_331), "validation": (190, 11, 86_120), "test": (401, 22, 171_877)}
    return {
        "format": "groundup-corpus",
        "version": 1,
        "splits": {
            name: {"documents": d, "groups": g, "text_bytes": b, "bytes": b + 120 * d, "sha256": "ab" * 32}
            for name, (d, g, b) in splits.items()
        },
        "duplicates_dropped": 214,
        "licenses": {"PSF-2.0": 4696},
        "sources": {"python-docs": 4696},
        "validation_fraction": 0.04,
        "test_fraction": 0.08,
        "seed": 7,
    }


def metrics() -> list[dict[str, Any]]:
    random = Random(3)
    records: list[dict[str, Any]] = []
    for stage, steps, top, bottom, peak, tokens in (
        ("pretrain", 900, 8.3, 2.45, 3e-3, 4096),
        ("sft", 400, 2.9, 0.62, 6e-4, 2300),
    ):
        for step in range(1, steps + 1):
            curve = bottom + (top - bottom) * math.exp(-5.5 * (step / steps) ** 0.62)
            warm = min(1.0, step / 50)
            rate = peak * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            spike = 20.0 if stage == "pretrain" and step == 300 else 0.0
            skipped = stage == "pretrain" and step == 301
            records.append(
                {
                    "stage": stage,
                    "step": step,
                    "elapsed_s": round(step * 0.27, 3),
                    "loss": None if skipped else curve + random.gauss(0, 0.07),
                    "lr": rate,
                    "grad_norm": None
                    if skipped
                    else 0.6 + 2.2 * math.exp(-step / 60) + abs(random.gauss(0, 0.1)) + spike,
                    "tokens": step * tokens,
                    "tokens_per_s": 15_000 + 500 * random.random(),
                    **({"skipped": True} if skipped else {}),
                }
            )
            if step % (steps // 9) == 0:
                loss = curve + 0.12 + 0.12 * max(0.0, step / steps - 0.7)
                records.append(
                    {
                        "stage": stage,
                        "step": step,
                        "elapsed_s": round(step * 0.27, 3),
                        "evaluation": {"loss": loss, "bits_per_byte": loss / 2.1},
                    }
                )
    return records


def tokenizer() -> dict[str, Any]:
    return {
        "vocab_size": 4096,
        "kind": "bpe",
        "pattern": "llama3",
        "bytes_per_token": {"train": 3.651, "test": 3.482},
        "used_share": 0.9913,
        "longest": [" representation", " implementation", "\n        ", " DeprecationWarning", "================"],
        "special_tokens": 4,
    }


def language() -> dict[str, Any]:
    methods = [
        ("groundup base", "model", 1.7312, 1.691, 1.772, ""),
        ("uniform over bytes", "baseline", 8.0, 8.0, 8.0, "knows nothing"),
        ("unigram of bytes", "baseline", 4.731, 4.69, 4.77, ""),
        ("unigram of tokens", "baseline", 2.9121, 2.85, 2.97, ""),
        ("trigram of bytes", "baseline", 2.8904, 2.83, 2.95, "interpolated Kneser-Ney"),
        ("trigram of tokens", "baseline", 2.1233, 2.07, 2.18, "interpolated Kneser-Ney"),
        ("gzip", "baseline", 2.7412, 2.7412, 2.7412, "whole text in one piece"),
        ("xz", "baseline", 2.5141, 2.5141, 2.5141, "whole text in one piece"),
        ("xz primed with the training text", "baseline", 2.0117, 2.0117, 2.0117, "whole text in one piece"),
    ]
    names = ("name", "kind", "bits_per_byte", "low", "high", "note")
    return {
        "test_bytes": 171_877,
        "documents": 401,
        "groups": 22,
        "methods": [dict(zip(names, row, strict=True)) for row in methods],
        "differences": [
            {
                "name": "trigram of tokens",
                "difference": 0.3921,
                "low": 0.34,
                "high": 0.44,
                "verdict": "The difference (+0.392, 95% interval +0.34 to +0.44) is more than chance.",
            },
            {
                "name": "xz primed with the training text",
                "difference": 0.2805,
                "low": 0.21,
                "high": 0.35,
                "verdict": "The difference (+0.28, 95% interval +0.21 to +0.35) is more than chance.",
            },
        ],
    }


def answers() -> dict[str, Any]:
    base = {"reading": (2, 3, 5, 4), "recall": (9, 2, 6, 0)}
    chat = {"reading": (163, 148, 121, 139), "recall": (14, 22, 117, 180)}
    span = {"reading": (66, 52, 74, 8)}
    models: dict[str, Any] = {}
    groups: dict[str, Any] = {"reading": {}, "recall": {}}
    for name, table in (("base", base), ("chat", chat), (SPAN, span)):
        models[name] = {}
        for group, counts in table.items():
            kinds = [kind for kind in KINDS if kind.startswith(group)]
            models[name] |= {kind: share(count, 200) for kind, count in zip(kinds, counts, strict=True)}
            groups[group][name] = share(sum(counts), 800)
    return {
        "models": models,
        "groups": groups,
        "differences": [
            {
                "name": "reading: chat against the span baseline",
                "difference": 0.4639,
                "low": 0.412,
                "high": 0.513,
                "verdict": "The difference (+0.464, 95% interval +0.412 to +0.513) is more than chance.",
            },
            {
                "name": "recall.does: chat against base",
                "difference": 0.025,
                "low": -0.018,
                "high": 0.069,
                "verdict": "The difference (+0.025, 95% interval -0.018 to +0.069) cannot be told from chance.",
            },
        ],
        "questions": {"reading": 800, "recall": 800},
    }


def transcript() -> list[dict[str, Any]]:
    random = Random(5)
    records = []
    signature = "textwrap.shorten(text, width=70, placeholder=' [...]', break_long_words=True)"
    passage = (
        "Return a copy of the sequence with specified leading bytes removed. If chars is omitted, ASCII white space "
        "is removed. The values are not a prefix. Raises ValueError when width is too small for the placeholder."
    )
    for index in range(160):
        kind = KINDS[index % len(KINDS)]
        right = random.random() < (0.7 if kind.startswith("reading") else 0.4)
        question = (
            f"Here is a signature: {signature}\nWhat is the default of width?"
            if index % 3
            else f"{passage}\n\nWhich word comes after leading?"
        )
        messages = [{"role": "user", "content": question}]
        if index % 7 == 0:
            messages = [
                {"role": "user", "content": "What does textwrap.dedent do?"},
                {"role": "assistant", "content": "Remove any common leading whitespace from every line in `text`."},
                {"role": "user", "content": "Which module is dedent in?"},
            ]
        expected = "textwrap" if index % 7 == 0 else "70" if index % 3 else "bytes"
        records.append(
            {
                "id": f"{kind}:{index}",
                "kind": kind,
                "group": f"module{index % 11}",
                "question": messages,
                "expected": expected,
                "base": " is the default of the default of the\n        the default value of the parameter, which is the",
                "chat": expected if right else "' [...]'",
                "copy": "' [...]'" if kind.startswith("reading") else None,
                "right": right,
            }
        )
    return records


def samples() -> list[dict[str, Any]]:
    texts = {
        0.0: "The module defines the following functions and classes to be used in the following way:\n\n    The "
        "following functions are defined by the module.",
        0.7: "The module provides a simple interface to the underlying file object. If the argument is omitted, the "
        "current locale is used instead.",
        1.0: "The module subclasses a Generic Number from mailbox octets, so slept tuples exit the `pickle` server.",
    }
    return [
        {"prompt": prompt, "temperature": temperature, "text": text if prompt else text[4:], "model": model}
        for model in ("base",)
        for prompt in ("The module", "")
        for temperature, text in texts.items()
    ]


def lineage(parent: str | None, recipe: str) -> dict[str, Any]:
    return {
        "parent": None if parent is None else {"folder": parent, "lineage": "1c" * 32},
        "recipe": "speedrun --depth 4",
        "source": "python-docs",
        "licenses": {"PSF-2.0": 4696},
        "data_sha256": {"train": "5f" * 32, "validation": "6a" * 32, "test": "7b" * 32},
        "stage": recipe,
        "settings": {"num_steps": 900},
        "execution": {**plan()["execution"], "precision": "bfloat16" if recipe == "pretrain" else "float32"},
        "seed": 7,
        "versions": {"groundup": "0.1.0", "torch": "2.13.0+cpu", "python": "3.12.3", "numpy": "2.3.1"},
    }


def write_example(run: Path) -> Path:
    """Write a full run folder and return it."""
    put(run / "plan.json", plan())
    put(run / "stages.json", stages())
    put(run / "corpus" / "corpus.json", corpus())
    put(run / "metrics.jsonl", metrics())
    put(run / "eval" / "tokenizer.json", tokenizer())
    put(run / "eval" / "language.json", language())
    put(run / "eval" / "answers.json", answers())
    put(run / "eval" / "transcript.jsonl", transcript())
    put(run / "eval" / "samples.json", samples())
    put(run / "base" / "lineage.json", lineage(None, "pretrain"))
    put(run / "chat" / "lineage.json", lineage("base", "sft"))
    return run


if __name__ == "__main__":
    import sys

    from groundup.recipes.report.write import write_report

    write_report(write_example(Path(sys.argv[1])))
