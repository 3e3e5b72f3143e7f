"""`groundup compare`: two files of settings, an equal budget, the same seeds, and what can be told from the results."""

from __future__ import annotations

import os
import platform
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from groundup import __version__
from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.execution import machine_fingerprint
from groundup.core.files import check_writable, write_json
from groundup.core.interrupt import StopRequest, stop_on_signal
from groundup.core.rundir import RunDir
from groundup.data.corpus import Corpus
from groundup.recipes.comparison.budget import TIME_WITHIN, Side
from groundup.recipes.comparison.differences import Difference, differences_of, equal_starts, equalities_of
from groundup.recipes.comparison.ideas import Idea, read_ideas
from groundup.recipes.comparison.outcome import (
    costs_of,
    curves_of,
    difference_of,
    mismatch_of,
    text_bytes,
    verdict_of,
)
from groundup.recipes.comparison.runs import MAX_TEST_BYTES, Bench, finished, held_out_documents, run_one
from groundup.recipes.comparison.setup import (
    PLAN,
    Request,
    asked_of,
    make_plan,
    make_side,
    open_corpus,
    recorded_plan,
    replanned,
    shards_of,
    sides_of,
    tokenizer_of,
)
from groundup.recipes.report.comparison import write_comparison
from groundup.tokenizer.base import Tokenizer

RESULT, PAGE = "comparison.json", "comparison.html"
#: How often the second side's updates are corrected by its first run, where time is to be equal.
MOST_CORRECTIONS = 2


def compare(paths: tuple[Path, Path], request: Request) -> dict[str, Any]:
    """Run what is not finished yet, and write `comparison.json` and `comparison.html`.

    Args:
        paths: two files with the tables of `groundup pretrain --config`; the first is the base.
        request: what is equal, how often, on which text, and where.

    Returns:
        what `comparison.json` holds.

    Raises:
        Interrupted: after a checkpoint; the same call goes on from there.
        UsageError: for files, options or an earlier comparison in the folder that do not fit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("compare works in one process: torchrun is for pretrain and sft")
    if request.num_seeds < 1:
        raise UsageError(f"--seeds {request.num_seeds}: at least one run of each is needed, and 3 to tell much")
    ideas = read_ideas(paths)
    _check_folder(request.out)
    check_writable(request.out / PLAN)
    run = RunDir(request.out)
    run.lock()
    try:
        with stop_on_signal() as stop:
            return _Comparison(ideas, request, stop).work()
    finally:
        run.unlock()


def _check_folder(out: Path) -> None:
    """Refuse a folder with things in it that no comparison left there."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    ours = ("corpus", "tokenizer-", "shards-", "runs", PLAN, "comparison.", ".")
    foreign = [path.name for path in out.iterdir() if not path.name.startswith(ours)] if out.is_dir() else []
    if foreign:
        raise UsageError(
            f"--out {out} holds {sorted(foreign)[0]!r}, which no comparison left there: name another folder"
        )


class _Comparison:
    def __init__(self, ideas: tuple[Idea, Idea], request: Request, stop: StopRequest) -> None:
        self.ideas, self.request, self.stop = ideas, request, stop

    def work(self) -> dict[str, Any]:
        with self.stop.at_once("stopped before the first run: the same command begins again"):
            corpus = open_corpus(self.request.corpus, self.request.out / "corpus")
            first, second = (tokenizer_of(idea, self.request, corpus) for idea in self.ideas)
            tokenizers = (first, second)
            plan = self._plan(corpus, tokenizers)
            sides = sides_of(self.request, self.ideas, corpus, tokenizers, plan)
            shards = self._shards(sides, corpus, tokenizers)
            started = equal_starts(*sides, self.request.first_seed, self.request.trust_code)
        bench = Bench(
            self.request.out,
            corpus,
            held_out_documents(corpus, self.request.first_seed),
            self.request.trust_code,
            self.stop,
            self.request.replan,
        )
        self._announce(sides, plan, tokenizers, started)
        sides, results = self._run_all(bench, corpus, sides, shards, tokenizers, plan)
        return self._finish(bench, sides, results, plan, tokenizers, started)

    def _shards(
        self, sides: tuple[Side, Side], corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer]
    ) -> tuple[Path, Path]:
        a, b = (shards_of(side, self.request, corpus, t) for side, t in zip(sides, tokenizers, strict=True))
        return a, b

    def _plan(self, corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer]) -> dict[str, Any]:
        """The recorded plan, or a new one, written before the first run."""
        request = self.request
        a, b = (
            make_side(key, idea, request, corpus, tokenizer, {})
            for key, idea, tokenizer in zip("ab", self.ideas, tokenizers, strict=True)
        )
        asked = asked_of(request, self.ideas, (a.config, b.config), corpus, tokenizers)
        plan = recorded_plan(request, asked)
        if plan is None:
            shards = self._shards((a, b), corpus, tokenizers)
            plan = {"asked": asked, **make_plan(request, self.ideas, corpus, tokenizers, shards)}
        elif request.replan:
            plan = replanned(request, plan, *sides_of(request, self.ideas, corpus, tokenizers, plan))
        write_json(request.out / PLAN, plan)
        return plan

    def _announce(
        self, sides: tuple[Side, Side], plan: dict[str, Any], tokenizers: tuple[Tokenizer, Tokenizer],
        started: tuple[int, int],
    ) -> None:  # fmt: skip
        request, total_s = self.request, plan["predicted_s_per_seed"] * self.request.num_seeds
        console.heading(f"Plan: {sides[0].idea.name} against {sides[1].idea.name}, equal {request.match}")
        rows = [
            [side.idea.name, f"{side.steps:,} updates of {side.update_tokens:,} tokens, "
             f"{console.format_count(side.sizes.parameters)} parameters"]
            for side in sides
        ]  # fmt: skip
        seeds = "1 run of each" if request.num_seeds == 1 else f"{request.num_seeds} runs of each, paired by seed"
        console.facts([*rows, ["runs", seeds], ["predicted time", console.format_seconds(total_s)]])
        differing = self._differing(sides)
        if differing:
            table = [[one.name, one.a, one.b, one.why] for one in differing]
            console.table(["what differs", sides[0].idea.name, sides[1].idea.name, "why"], table)
        else:
            console.warn("nothing differs between the two: only what training itself leaves open could tell them apart")
        same = tokenizers[0].fingerprint() == tokenizers[1].fingerprint()
        for sentence in equalities_of(*sides, request.match, same, started):
            console.say(f"the same: {sentence}")
        if request.num_seeds == 1:
            console.warn("one seed gives an interval over texts only: use --seeds 3 or more")

    def _differing(self, sides: tuple[Side, Side]) -> list[Difference]:
        derived = {"train.num_steps", "train.warmup_steps", "train.evaluate_every", "train.checkpoint_every"}
        if self.request.match == "parameters":
            derived.add("model.intermediate_size")
        return differences_of(*sides, self.request.match, derived)

    def _run_all(
        self, bench: Bench, corpus: Corpus, sides: tuple[Side, Side], shards: tuple[Path, Path],
        tokenizers: tuple[Tokenizer, Tokenizer], plan: dict[str, Any],
    ) -> tuple[tuple[Side, Side], dict[str, list[dict[str, Any]]]]:  # fmt: skip
        """All runs, seed by seed, so that both sides meet the machine in the same state."""
        progress = _Progress(2 * self.request.num_seeds, plan["predicted_s_per_seed"] / 2)
        results: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        for seed in self.request.seeds:
            for index in (0, 1):
                side = sides[index]
                progress.begin(side.idea.name, seed, is_done=finished(bench, side, seed) is not None)
                self.stop.check("stopped between two runs: the same command goes on from there")
                result = run_one(bench, side, seed, shards[index], tokenizers[index])
                while self._corrects(seed, index, plan):
                    ratio = result["seconds"] / results["a"][0]["seconds"]
                    if abs(ratio - 1) <= TIME_WITHIN:
                        break
                    sides = self._corrected(corpus, tokenizers, plan, ratio)
                    result = run_one(bench, sides[1], seed, shards[1], tokenizers[1])
                progress.end()
                results[side.key].append(result)
        return sides, results

    def _corrects(self, seed: int, index: int, plan: dict[str, Any]) -> bool:
        """True after the second side's first run, where time is to be equal and more corrections are allowed."""
        first = seed == self.request.first_seed and index == 1
        return self.request.match == "time" and first and plan["corrections"] < MOST_CORRECTIONS

    def _corrected(
        self, corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer], plan: dict[str, Any], ratio: float
    ) -> tuple[Side, Side]:
        """Both sides with other updates of the second: the probe foretold its time wrongly by `ratio`."""
        before = plan["steps"]["b"]
        plan["steps"]["b"] = max(1, round(before / ratio))
        plan["corrections"] += 1
        write_json(self.request.out / PLAN, plan)
        console.say(
            f"{self.ideas[1].name} took {ratio:.2f} times as long as {self.ideas[0].name}: its first run is repeated "
            f"with {plan['steps']['b']:,} updates instead of {before:,}"
        )
        return sides_of(self.request, self.ideas, corpus, tokenizers, plan)

    def _finish(
        self, bench: Bench, sides: tuple[Side, Side], results: dict[str, list[dict[str, Any]]], plan: dict[str, Any],
        tokenizers: tuple[Tokenizer, Tokenizer], started: tuple[int, int],
    ) -> dict[str, Any]:  # fmt: skip
        request = self.request
        groups, sizes = text_bytes(bench)
        difference, seeds = difference_of(results["a"], results["b"], sizes)
        costs = {side.key: costs_of(side, results[side.key]) for side in sides}
        same_tokenizer = tokenizers[0].fingerprint() == tokenizers[1].fingerprint()
        found = {
            "names": {side.key: side.idea.name for side in sides},
            "files": {side.key: str(side.idea.path) for side in sides},
            "match": request.match,
            "verdict": verdict_of(sides[0].idea.name, sides[1].idea.name, difference, request.num_seeds),
            "difference": difference,
            "seeds": seeds,
            "test": {"groups": len(groups), "bytes": int(sum(sizes)), "of_bytes": bench.corpus.num_bytes("test")},
            "differs": [asdict(one) for one in self._differing(sides)],
            "same": equalities_of(*sides, request.match, same_tokenizer, started),
            "costs": costs,
            "budget": mismatch_of(request.match, costs["a"], costs["b"]),
            "curves": {side.key: curves_of(bench, side, request.seeds) for side in sides},
            "command": self._command(),
            "settings": {side.key: side.idea.raw for side in sides},
            "machine": machine_fingerprint(),
            "versions": {"groundup": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "predicted_s": plan["predicted_s_per_seed"] * request.num_seeds,
        }
        write_json(request.out / RESULT, found)
        page = write_comparison(request.out / PAGE, found)
        self._tell(found, page)
        return found

    def _command(self) -> str:
        request = self.request
        parts = ["groundup", "compare", *(str(idea.path) for idea in self.ideas)]
        parts += ["--out", str(request.out), "--corpus", request.corpus]
        parts += [] if request.tokenizer is None else ["--tokenizer", str(request.tokenizer)]
        parts += ["--seeds", str(request.num_seeds), "--seed", str(request.first_seed), "--match", request.match]
        parts += [] if request.budget_s is None else ["--budget", f"{request.budget_s:g}s"]
        parts += ["--depth", str(request.depth), *(["--trust-code"] if request.trust_code else [])]
        return shlex.join(parts)

    def _tell(self, found: dict[str, Any], page: Path) -> None:
        names, costs = found["names"], found["costs"]
        console.heading("Result")
        means = {key: sum(seed[key] for seed in found["seeds"]) / len(found["seeds"]) for key in ("a", "b")}
        rows = [
            ["bits per byte, test split", *(f"{means[key]:.4f}" for key in "ab")],
            ["trained tokens", *(f"{costs[key]['tokens']:,}" for key in "ab")],
            ["operations", *(f"{console.format_count(costs[key]['flops'])}FLOP" for key in "ab")],
            ["parameters", *(f"{costs[key]['parameters']:,}" for key in "ab")],
            ["seconds of updates", *(console.format_seconds(costs[key]["seconds"]) for key in "ab")],
            ["tokens in a second", *(f"{console.format_count(costs[key]['tokens_per_s'])}/s" for key in "ab")],
        ]
        console.table(["", names["a"], names["b"]], rows)
        if found["test"]["bytes"] < found["test"]["of_bytes"]:
            console.say(
                f"measured on {console.format_bytes(found['test']['bytes'])} of the test split's "
                f"{console.format_bytes(found['test']['of_bytes'])} (whole groups, at least {MAX_TEST_BYTES:,} bytes)"
            )
        if not found["budget"]["is_equal"]:
            unit = "time" if found["match"] == "time" else found["match"]
            console.warn(f"the budgets are not equal: {names['b']} used {found['budget'][unit]:+.1%} {unit}")
        console.say(found["verdict"])
        console.say(f"page: {page}")


class _Progress:
    """Says which run comes, of how many, and when the last will end."""

    def __init__(self, total: int, seconds_per_run: float) -> None:
        self.total, self.count, self.per_run = total, 0, seconds_per_run
        self.times: list[float] = []
        self.begun: float | None = None

    def begin(self, name: str, seed: int, *, is_done: bool) -> None:
        self.count += 1
        title = f"Run {self.count} of {self.total}: {name}, seed {seed}"
        if is_done:
            console.say(f"{title}: finished before")
            self.begun = None
            return
        per_run = sum(self.times) / len(self.times) if len(self.times) >= 2 else self.per_run
        left = console.format_seconds((self.total - self.count + 1) * per_run)
        console.heading(f"{title} (about {left} left)")
        self.begun = time.monotonic()

    def end(self) -> None:
        if self.begun is not None:
            self.times.append(time.monotonic() - self.begun)
