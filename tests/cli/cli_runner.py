"""Running the command as a user does, in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TINY = [
    "--depth", "2", "--tokenizer.vocab-size", "300", "--model.hidden-size", "32", "--model.num-attention-heads", "2",
    "--model.intermediate-size", "64", "--model.max-position-embeddings", "400", "--pretrain.context", "32",
    "--pretrain.batch-size", "4", "--pretrain.num-steps", "24", "--pretrain.checkpoint-every", "5",
    "--pretrain.evaluate-every", "12", "--pretrain.warmup-steps", "2", "--sft.num-steps", "12", "--sft.batch-size", "4",
    "--sft.max-length", "399", "--sft.checkpoint-every", "4", "--sft.evaluate-every", "6", "--sft.warmup-steps", "1",
    "--evaluation.questions-per-kind", "10", "--evaluation.stride", "64", "--execution.threads", "1",
    "--execution.precision", "float32", "--execution.micro-batch", "4",
]  # fmt: skip


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "groundup", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **extra}


def run(*arguments: str | Path, input: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, input=input, env=environment(**extra), timeout=600
    )


class Done(NamedTuple):
    """What a command in this process printed, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_here(*arguments: str | Path) -> Done:
    """Run the command in this process, which costs no start: for calls that are refused or need little."""
    from groundup.cli.app import run as run_app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def write_notes(folder: Path, count: int = 30) -> Path:
    """A folder of small texts in three formats, enough for a tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    nouns = ["river", "mountain", "garden", "window", "candle", "thunder", "village", "silver", "harbour", "meadow"]
    for index in range(count):
        a, b, c, d = (nouns[(index * step + step) % 10] for step in (1, 3, 7, 9))
        body = " ".join(
            f"In chapter {n} of book {index} the {a} stood beside the {b} while somebody painted number {n * index}. "
            f"Nobody near the {c} ever asked about it. Later the {d} changed colour {n} times."
            for n in range(12)
        )
        if index % 3 == 0:
            (folder / f"note{index}.txt").write_text(body + "\n", encoding="utf-8")
        elif index % 3 == 1:
            (folder / f"note{index}.md").write_text(f"# Note {index}\n\n{body}\n", encoding="utf-8")
        else:
            (folder / f"note{index}.html").write_text(f"<html><body><p>{body}</p></body></html>", encoding="utf-8")
    return folder
