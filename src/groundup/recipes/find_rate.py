"""`groundup pretrain --find-lr`: a range test on the run's own model, data and optimizer, with a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.data.corpus import read_corpus
from groundup.data.shards import TokenShards
from groundup.model.initialize import has_room_for_induction, plant_induction_circuit
from groundup.model.transformer import build
from groundup.recipes.composition import check_trusted
from groundup.recipes.corpus import current_shards
from groundup.recipes.settings import PretrainSettings
from groundup.recipes.stages import dialled_settings, work_folder
from groundup.recipes.training import choose_plan, model_config, pretraining_source
from groundup.tokenizer import load_tokenizer
from groundup.train.objectives import next_token_loss
from groundup.train.range_test import RangeTest, range_test

NUM_STEPS = 150
#: Rows of the drawing, and columns of its longest bar.
ROWS, COLUMNS = 20, 40
#: Runs of more updates than this want a lower peak than a test of 150 finds.
LONG_RUN = 3_000


def find_learning_rate(
    corpus_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    *,
    depth: int,
    init_from: Path | None,
    seed: int,
    trust_code: bool = False,
    overrides: dict[str, Any],
) -> RangeTest:
    """Test a fresh model of these settings, print the curve and a suggestion; nothing is trained.

    The text is tokenised into `OUT.work/shards`, where `pretrain` finds it.

    Raises:
        UsageError: with `init_from`, or for parts of kind `file` that are not trusted.
    """
    if init_from is not None:
        raise UsageError(
            f"--find-lr with --init-from {init_from}: the test is for random weights. On a trained one the loss falls "
            "only after the rate has destroyed what it knew; begin with a tenth of the rate it was trained with"
        )
    corpus, tokenizer = read_corpus(corpus_folder), load_tokenizer(tokenizer_folder)
    dialled = dialled_settings(corpus, tokenizer, depth=depth, overrides=overrides)
    composition = model_config(dialled.model, tokenizer)
    check_trusted(composition, trust_code)
    shards, settings = work_folder(out) / "shards", dialled.pretrain
    current_shards(corpus, tokenizer, shards, chat=settings.chat_share > 0, seed=seed)
    model = build(composition, seed=seed, trust_code=trust_code)
    if settings.starting_values == "induction" and has_room_for_induction(model):
        plant_induction_circuit(model, seed=seed)
    config = settings.train_config().replace(seed=seed)
    plan = choose_plan(
        build(model.config, trust_code=trust_code),
        dialled.execution,
        config,
        rows=settings.batch_size,
        context=settings.context,
    )
    source = pretraining_source(shards, TokenShards(shards / "train"), settings, plan, seed)
    with console.progress("range test", NUM_STEPS, "updates") as ticker:
        test = range_test(
            model,
            source,
            next_token_loss,
            config,
            plan,
            num_steps=NUM_STEPS,
            on_step=lambda done, loss: ticker.advance(1, f"loss {loss:.3f}"),
        )
    show(test)
    for warning in [*test.warnings, *limits(settings)]:
        console.warn(warning)
    console.say(f"try --train.learning-rate {test.suggestion:g} (these settings have {settings.learning_rate:g})")
    return test


def limits(settings: PretrainSettings) -> list[str]:
    """Where a range test does not hold for a run of these settings."""
    said = []
    if settings.matrix_learning_rate is not None:
        said.append(
            f"matrix_learning_rate ({settings.matrix_learning_rate:g}) and learning_rate ({settings.learning_rate:g}) grew "
            "together, at their ratio: the test says nothing about the ratio"
        )
    if settings.num_steps > LONG_RUN:
        said.append(
            f"the run has {settings.num_steps:,} updates, the test {NUM_STEPS}: longer runs want a lower peak, so try "
            "half of the suggestion as well"
        )
    return said


def show(test: RangeTest) -> None:
    """Draw the smoothed loss over the rate, a row for each step of the rate."""
    every = max(1, len(test.rates) // ROWS)
    low, high = min(test.smooth), max(test.smooth)
    console.say("learning rate   loss")
    for index in range(0, len(test.rates), every):
        loss = test.smooth[index]
        bar = "█" * max(1, round(COLUMNS * (loss - low) / max(high - low, 1e-9)))
        marks = [
            name
            for name, rate in (("steepest", test.steepest), ("lowest", test.lowest), ("suggested", test.suggestion))
            if index == min(range(0, len(test.rates), every), key=lambda i: abs(test.rates[i] / rate - 1))
        ]
        console.say(f"{test.rates[index]:13.2e}  {loss:6.3f} {bar} {', '.join(marks)}".rstrip())
    broke = "never" if test.broke is None else f"at {test.broke:.2g}"
    console.say(f"the loss fell fastest at {test.steepest:.2g}, was lowest at {test.lowest:.2g}, and broke {broke}")
