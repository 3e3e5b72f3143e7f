"""Before the runs: corpus, tokenizers, shards, and the plan, which is recorded and kept to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.execution import keep_freed_memory
from groundup.core.files import read_json, sha256_json, write_json
from groundup.data.corpus import MANIFEST, Corpus, read_corpus
from groundup.data.document import SPLITS
from groundup.data.shards import INDEX
from groundup.model.config import TransformerConfig
from groundup.model.transformer import build
from groundup.recipes.comparison.budget import (
    DEFAULT_BUDGET_S,
    Match,
    Side,
    check_given_steps,
    equal_steps,
    evaluation_seconds,
    resized,
    steps_in_budget,
    with_steps,
)
from groundup.recipes.comparison.ideas import Idea, code_hashes, sizes_of
from groundup.recipes.corpus import current_shards, make_corpus, make_tokenizer, source_fingerprint
from groundup.recipes.plan import MIN_STEPS
from groundup.recipes.settings import CorpusSettings, ExecutionSettings
from groundup.recipes.training import EVALUATION_TOKENS, probe_plan, settled_execution
from groundup.tokenizer import load_tokenizer
from groundup.tokenizer.base import Tokenizer
from groundup.train.probe import ProbeResult
from groundup.train.resume import differences

PLAN = "plan.json"


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        out: folder of the comparison.
        corpus: a corpus folder, or the source of one.
        tokenizer: folder of the tokenizer of both, or None to train one.
        num_seeds, first_seed: runs of each side.
        match: what is equal.
        budget_s: seconds for all runs together, or None.
        depth: of the dial, for what the files leave open.
        trust_code: allow parts of kind `file`.
        replan: choose a new execution plan.
    """

    out: Path
    corpus: str
    tokenizer: Path | None
    num_seeds: int
    first_seed: int
    match: Match
    budget_s: float | None
    depth: int
    trust_code: bool
    replan: bool

    @property
    def seeds(self) -> list[int]:
        return list(range(self.first_seed, self.first_seed + self.num_seeds))


def open_corpus(source: str, folder: Path) -> Corpus:
    """The corpus of `source`: itself, or made in `folder` from text, once.

    Raises:
        UsageError: when `folder` holds one of another source.
    """
    if (Path(source) / MANIFEST).is_file():
        return read_corpus(Path(source))
    marker = folder / "made_from.json"
    made_from = {"source": source, "fingerprint": source_fingerprint(source)}
    if marker.is_file() and (folder / MANIFEST).is_file():
        if read_json(marker) != made_from:
            raise UsageError(
                f"{folder} was made from {read_json(marker)['source']}, this is {source} or it has changed: "
                "name another --out, or remove the folder"
            )
        return read_corpus(folder)
    corpus = make_corpus(CorpusSettings(source=source), folder)
    write_json(marker, made_from)
    return corpus


def tokenizer_of(idea: Idea, request: Request, corpus: Corpus) -> Tokenizer:
    """The tokenizer of an idea: the one that was given for both, or one trained for its settings, once."""
    if request.tokenizer is not None:
        if "tokenizer" in idea.given:
            raise UsageError(
                f"{idea.path} has a table [tokenizer], and --tokenizer {request.tokenizer} is given for both: "
                "leave one of the two out"
            )
        return load_tokenizer(request.tokenizer)
    settings = idea.settings(request.depth, corpus.num_bytes("train"))
    length = settings.model.max_position_embeddings
    of = {"settings": settings.tokenizer.to_dict(), "corpus": sha256_json(corpus.manifest["splits"])}
    folder = request.out / f"tokenizer-{sha256_json(of)[:8]}"
    marker = folder / "made_from.json"
    if marker.is_file() and read_json(marker) == of:
        return load_tokenizer(folder)
    tokenizer = make_tokenizer(corpus, settings.tokenizer, folder, max_length=length)
    write_json(marker, of)
    return tokenizer


def shards_of(side: Side, request: Request, corpus: Corpus, tokenizer: Tokenizer) -> Path:
    """The token shards of a side, made where they are missing."""
    chat = side.settings.pretrain.chat_share > 0
    folder = request.out / f"shards-{tokenizer.fingerprint()[:8]}{'-chat' if chat else ''}"
    current_shards(corpus, tokenizer, folder, chat=chat, seed=request.first_seed)
    return folder


def make_side(
    key: str, idea: Idea, request: Request, corpus: Corpus, tokenizer: Tokenizer, more: dict[str, Any]
) -> Side:
    """Resolve an idea with what was settled for it."""
    ids = _ids(tokenizer)
    values = {**more, "tokenizer": {"vocab_size": max(260, tokenizer.vocab_size)}} if request.tokenizer else more
    settings = idea.settings(request.depth, corpus.num_bytes("train"), values)
    config = idea.config(settings, request.trust_code, **ids)
    return Side(key, idea, settings, config, sizes_of(config, settings.pretrain.context))


def _ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def asked_of(request: Request, ideas: tuple[Idea, Idea], configs: tuple[TransformerConfig, TransformerConfig],
             corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer]) -> dict[str, Any]:  # fmt: skip
    """What the plan was made for; more seeds may be added to it, anything else is another comparison."""
    sides = {
        key: {"file": idea.raw, "code": code_hashes(config), "tokenizer": tokenizer.fingerprint()}
        for key, idea, config, tokenizer in zip("ab", ideas, configs, tokenizers, strict=True)
    }
    return {
        **sides,
        "corpus": sha256_json(corpus.manifest["splits"]),
        "match": request.match,
        "budget_s": request.budget_s,
        "depth": request.depth,
        "first_seed": request.first_seed,
    }


def recorded_plan(request: Request, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The plan of an earlier start of this comparison, or None.

    Raises:
        UsageError: when the folder holds another comparison, naming every difference.
    """
    path = request.out / PLAN
    if not path.is_file():
        return None
    plan = dict(read_json(path))
    changes = differences(plan["asked"], asked)
    if changes:
        raise UsageError(
            f"{request.out} holds a comparison with other settings: {'; '.join(changes)}. Use the recorded ones to go "
            "on, name another --out, or remove the folder"
        )
    return plan


def make_plan(
    request: Request, ideas: tuple[Idea, Idea], corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer],
    shards: tuple[Path, Path],
) -> dict[str, Any]:  # fmt: skip
    """Measure both, and choose sizes, execution and numbers of updates so that the budgets are equal."""
    a, b = (
        make_side(key, idea, request, corpus, tokenizer, {})
        for key, idea, tokenizer in zip("ab", ideas, tokenizers, strict=True)
    )
    more: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
    if request.match == "parameters":
        context = b.settings.pretrain.context
        more["b"] = resized(a, ideas[1], b, context, request.trust_code, **_ids(tokenizers[1]))
        b = make_side("b", ideas[1], request, corpus, tokenizers[1], more["b"])
    keep_freed_memory()
    probes, execution = _probe_both(a, b, request)
    for key, values in execution.items():
        more[key]["execution"] = values
    update_s = tuple(probe.update_seconds(side.update_tokens) for probe, side in zip(probes, (a, b), strict=True))
    steps = _steps(request, a, b, (update_s[0], update_s[1]), probes, corpus, shards)
    tokens = [_split_tokens(folder) for folder in shards]
    predicted = sum(
        count * seconds + evaluation_seconds(with_steps(side, request.depth, corpus.num_bytes("train"), count, {}),
                                             probe, *held_out)
        for side, count, seconds, probe, held_out in zip((a, b), steps, update_s, probes, tokens, strict=True)
    )  # fmt: skip
    return {
        "steps": {"a": steps[0], "b": steps[1]},
        "more": more,
        "predicted_s_per_seed": predicted,
        "update_s": {"a": update_s[0], "b": update_s[1]},
        "corrections": 0,
    }


def _probe_both(
    a: Side, b: Side, request: Request
) -> tuple[tuple[ProbeResult, ProbeResult], dict[str, dict[str, Any]]]:
    """Measure a, settle its execution for both (but for what a file says of its own), and measure b under it."""
    probes, execution, common = [], {}, dict[str, Any]()
    for side in (a, b):
        train = side.settings.pretrain
        given = side.idea.given.get("execution", {})
        asked = ExecutionSettings(**{**common, **given})
        rows = min(asked.micro_batch or train.batch_size, train.batch_size)
        if common or "micro_batch" in given:
            asked = asked.replace(micro_batch=rows)
        with console.progress(f"probe: {side.idea.name}", 1, "model") as ticker:
            probe = probe_plan(
                build(side.config, trust_code=request.trust_code),
                asked,
                train.train_config(),
                rows=train.batch_size,
                context=train.context,
            )
            ticker.advance(1)
        probes.append(probe)
        settled = settled_execution(asked, probe.plan.to_dict(), rows=probe.plan.micro_batch).to_dict()
        execution[side.key] = settled
        common = common or settled
    return (probes[0], probes[1]), execution


def _split_tokens(shards: Path) -> tuple[int, int]:
    """Tokens of the validation split that are watched, and of the test split."""
    validation, test = (int(read_json(shards / split / INDEX)["num_tokens"]) for split in SPLITS[1:])
    return min(validation, EVALUATION_TOKENS), test


def _steps(
    request: Request, a: Side, b: Side, update_s: tuple[float, float], probes: tuple[ProbeResult, ProbeResult],
    corpus: Corpus, shards: tuple[Path, Path],
) -> tuple[int, int]:  # fmt: skip
    """Updates of a, as its file or the budget says, and the equal ones of b."""
    given = [idea.given.get("pretrain", {}).get("num_steps") for idea in (a.idea, b.idea)]
    if given[0] is not None and request.budget_s is not None:
        raise UsageError(
            f"{a.idea.path} sets train.num_steps = {given[0]}, and --budget chooses it: leave one of the two out"
        )
    if given[0] is None and given[1] is not None:
        raise UsageError(
            f"{b.idea.path} sets train.num_steps = {given[1]}, and the budget is the first file's: set it there"
        )
    # A thousand updates stand for the ratio of the two, which rounding would spoil for a few.
    ratio = equal_steps(request.match, a, b, 1_000_000, update_s) / 1_000_000
    if given[0] is None:
        around = sum(
            evaluation_seconds(side, probe, *_split_tokens(folder))
            for side, probe, folder in zip((a, b), probes, shards, strict=True)
        )
        steps_a = steps_in_budget(
            request.budget_s or DEFAULT_BUDGET_S, request.num_seeds, update_s[0], around, ratio * update_s[1],
            MIN_STEPS / min(1.0, ratio),
        )  # fmt: skip
    else:
        steps_a = int(given[0])
    steps_b = equal_steps(request.match, a, b, steps_a, update_s)
    check_given_steps(b, given[1], steps_a, steps_b, request.match)
    return steps_a, steps_b


def replanned(request: Request, plan: dict[str, Any], a: Side, b: Side) -> dict[str, Any]:
    """The plan with an execution chosen anew; updates and sizes stay."""
    _, execution = _probe_both(a, b, request)
    more = {key: {**plan["more"][key], "execution": execution[key]} for key in ("a", "b")}
    return {**plan, "more": more}


def sides_of(
    request: Request, ideas: tuple[Idea, Idea], corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer],
    plan: dict[str, Any],
) -> tuple[Side, Side]:  # fmt: skip
    """Both sides as the plan settles them."""
    a, b = (
        make_side(
            key,
            replace(idea, given={**idea.given, "execution": {}}),
            request,
            corpus,
            tokenizer,
            {**plan["more"][key], "pretrain": {"num_steps": plan["steps"][key]}},
        )
        for key, idea, tokenizer in zip("ab", ideas, tokenizers, strict=True)
    )
    return a, b
