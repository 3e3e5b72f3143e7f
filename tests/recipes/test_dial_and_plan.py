"""The dial's settings always build, and the plan's numbers are those of the model that is trained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError, UsageError
from groundup.core.execution import ExecutionPlan, machine_fingerprint
from groundup.model.transformer import build
from groundup.recipes import plan as plan_module
from groundup.recipes.dial import approximate_parameters, settings_for, smallest_corpus_bytes, vocabulary_for
from groundup.recipes.plan import fit_to_budget, make_plan, parse_duration, show_plan
from groundup.recipes.settings import ExecutionSettings, ModelSettings, SpeedrunSettings
from groundup.recipes.training import pass_sizes, settled_execution, shape_config, unprobed_plan
from groundup.train.probe import ProbeResult

depths, sizes = st.integers(1, 64), st.integers(1_000, 10**11)


def fake_probe(items_per_s: float, micro_batch: int = 8) -> ProbeResult:
    plan = ExecutionPlan(
        device="cpu", precision="float32", threads=1, micro_batch=micro_batch, compile=False, world_size=1,
        machine=machine_fingerprint(),
    )  # fmt: skip
    return ProbeResult(plan, items_per_s, 0.001, (), 0.1)


@settings(deadline=None, max_examples=60)
@given(depths, sizes, st.sampled_from(["bpe", "char"]), st.sampled_from(["gpt2", "llama3", "qwen3"]))
def test_every_turn_of_the_dial_is_a_model_that_can_be_described(depth: int, size: int, kind: str, preset: str) -> None:
    dialled = settings_for(depth, size, {"tokenizer": {"kind": kind}, "model": {"preset": preset}})
    config = shape_config(dialled)
    assert len(config.layers()) == max(2, depth)
    assert dialled.model.hidden_size % dialled.model.num_attention_heads == 0
    assert dialled.pretrain.context <= dialled.model.max_position_embeddings
    assert dialled.pretrain.warmup_steps < dialled.pretrain.num_steps
    assert dialled.evaluation.context == dialled.pretrain.context
    needed, advice = smallest_corpus_bytes(dialled)
    assert needed > 0 and advice.split()[-1] in ("--pretrain.context", "--tokenizer.vocab-size")
    again = SpeedrunSettings(**dialled.to_dict())
    assert again == dialled


@given(sizes, sizes)
def test_more_text_never_gives_a_smaller_vocabulary(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 512 <= vocabulary_for(low) <= vocabulary_for(high) <= 32_768
    assert 512 <= vocabulary_for(low, 192) <= vocabulary_for(high, 192) <= 8_192


def test_the_approximate_parameters_are_near_the_real_ones() -> None:
    for depth in (2, 4, 8):
        dialled = settings_for(depth, 2_000_000)
        real = sum(p.numel() for p in build(shape_config(dialled)).parameters())
        assert approximate_parameters(dialled.model.to_dict(), dialled.tokenizer.vocab_size) == pytest.approx(
            real, rel=0.01
        )


@pytest.mark.parametrize(
    ("given", "width", "heads"),
    [
        ({}, 192, 3),
        ({"hidden_size": 256}, 256, 4),
        ({"hidden_size": 100}, 100, 2),
        ({"num_attention_heads": 5}, 320, 5),
        ({"hidden_size": 96, "num_attention_heads": 6}, 96, 6),
    ],
)
def test_width_and_heads_follow_each_other(given: dict[str, Any], width: int, heads: int) -> None:
    model = settings_for(4, 2_000_000, {"model": given}).model
    assert (model.hidden_size, model.num_attention_heads) == (width, heads)
    assert model.intermediate_size == 3 * width
    build(shape_config(settings_for(4, 2_000_000, {"model": given})))


@pytest.mark.parametrize(
    ("depth", "overrides", "words"),
    [
        (0, {}, r"depth \(0\) must lie between 1 and 64"),
        (65, {}, r"depth \(65\)"),
        (4, {"model": {"hidden_size": 100, "num_attention_heads": 3}}, r"\(100\) must be a multiple .* \(3\): use 2"),
        (4, {"model": {"hiden_size": 1}}, "hiden_size.*hidden_size"),
        (4, {"pretrain": {"num_steps": 0}}, "num_steps"),
    ],
)
def test_what_the_dial_refuses(depth: int, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_for(depth, 2_000_000, overrides)


def test_the_rate_of_the_matrices_follows_the_optimizer_and_the_rate() -> None:
    dialled = settings_for(4, 2_000_000).pretrain
    assert dialled.optimizer == "muon" and dialled.matrix_learning_rate == 2 * dialled.learning_rate
    slow = settings_for(4, 2_000_000, {"pretrain": {"learning_rate": 1e-9}}).pretrain
    assert slow.matrix_learning_rate == 2e-9 and slow.muon_iterations == dialled.muon_iterations
    given = settings_for(4, 2_000_000, {"pretrain": {"matrix_learning_rate": 0.5, "muon_momentum": 0.8}}).pretrain
    assert (given.matrix_learning_rate, given.muon_momentum) == (0.5, 0.8)
    adamw = settings_for(4, 2_000_000, {"pretrain": {"optimizer": "adamw"}}).pretrain
    assert adamw.matrix_learning_rate is None


def test_wider_models_have_larger_updates() -> None:
    """Muon's share of the operations of an update is about the width over the tokens."""
    shares = []
    for depth in (4, 8, 12, 16):
        settings = settings_for(depth, 50_000_000)
        shares.append(settings.model.hidden_size / (settings.pretrain.batch_size * settings.pretrain.context))
    assert max(shares) <= 1.1 * 192 / 2048
    assert settings_for(2, 2_000_000).pretrain.batch_size * 256 == 2048


def test_a_head_size_of_its_own_frees_the_width() -> None:
    assert ModelSettings(hidden_size=100, num_attention_heads=3, head_dim=32).head_dim == 32


def test_the_plan_counts_what_will_be_trained() -> None:
    dialled = settings_for(4, 2_000_000, {"pretrain": {"num_steps": 100}})
    plan = make_plan(dialled, 2_000_000, probe=fake_probe(10_000.0))
    model = build(shape_config(dialled))
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.train_tokens == 100 * dialled.pretrain.batch_size * dialled.pretrain.context
    assert plan.predicted["total_s"] == pytest.approx(sum(plan.predicted["stages"].values()))
    slower = make_plan(dialled, 2_000_000, probe=fake_probe(5_000.0))
    assert slower.predicted["stages"]["pretrain"] > 1.9 * plan.predicted["stages"]["pretrain"]
    larger = make_plan(dialled, 2_000_000, probe=fake_probe(10_000.0, micro_batch=64))
    assert larger.predicted["peak_bytes"] > plan.predicted["peak_bytes"]


@settings(deadline=None, max_examples=25)
@given(st.floats(120, 7_200), st.floats(3_000, 300_000))
def test_a_budget_is_filled_and_not_overrun(budget: float, speed: float) -> None:
    """Whatever the machine's speed, the predicted time is near the budget or the dial's own end is reached."""
    measured = plan_module.measure
    try:
        # A model of n parameters runs n times slower on the imagined machine.
        def measure(settings: SpeedrunSettings, *, may_compile: bool = True) -> ProbeResult:
            del may_compile
            size = approximate_parameters(settings.model.to_dict(), settings.tokenizer.vocab_size)
            return fake_probe(speed * 2.3e6 / size)

        plan_module.measure = measure
        try:
            chosen, probe = fit_to_budget(budget, 2_000_000, {})
        except UsageError as error:
            assert "too short" in str(error) and "Use --budget" in str(error)
            return
    finally:
        plan_module.measure = measured
    plan = make_plan(chosen, 2_000_000, probe=probe, budget_s=budget)
    assert plan.predicted["total_s"] <= 1.05 * budget
    assert plan.parameters <= 1.05 * plan_module.PARAMETERS_PER_TOKEN * plan.corpus_tokens
    stretched = int(plan_module.STRETCH * settings_for(chosen.depth, 2_000_000).pretrain.num_steps)
    assert plan.predicted["total_s"] >= 0.9 * budget or chosen.pretrain.num_steps >= stretched


@pytest.fixture
def imagined_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 2.3 million parameters trains 12,000 tokens a second, another one by its size."""

    def measure(settings: SpeedrunSettings, *, may_compile: bool = True) -> ProbeResult:
        del may_compile
        size = approximate_parameters(settings.model.to_dict(), settings.tokenizer.vocab_size)
        return fake_probe(12_000 * 2.3e6 / size)

    monkeypatch.setattr(plan_module, "measure", measure)


@pytest.mark.usefixtures("imagined_machine")
def test_a_night_on_much_text(capsys: pytest.CaptureFixture[str]) -> None:
    budget, text = 8 * 3600.0, 100_000_000
    chosen, probe = fit_to_budget(budget, text, {})
    plan = make_plan(chosen, text, probe=probe, budget_s=budget)
    assert 0.9 * budget <= plan.predicted["total_s"] <= 1.05 * budget
    assert 3e6 < plan.parameters < 20e6 and plan.epochs < 9.1
    embedding = chosen.tokenizer.vocab_size * chosen.model.hidden_size
    assert embedding < 0.5 * plan.parameters
    update_s = probe.update_seconds(chosen.pretrain.batch_size * chosen.pretrain.context)
    assert chosen.pretrain.checkpoint_every * update_s <= plan_module.CHECKPOINT_S
    assert chosen.pretrain.evaluate_every * update_s <= plan_module.EVALUATE_S
    show_plan(plan)
    assert "not enough" not in capsys.readouterr().out


@pytest.mark.usefixtures("imagined_machine")
def test_a_night_on_little_text_says_that_it_is_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    budget, text = 8 * 3600.0, 2_000_000
    chosen, probe = fit_to_budget(budget, text, {})
    plan = make_plan(chosen, text, probe=probe, budget_s=budget)
    assert plan.predicted["total_s"] < 0.7 * budget
    show_plan(plan)
    said = " ".join(capsys.readouterr().out.split())
    assert "of the 8 h 00 min" in said and "With more text" in said
    given, _ = fit_to_budget(budget, text, {"pretrain": {"checkpoint_every": 7, "evaluate_every": 9}})
    assert (given.pretrain.checkpoint_every, given.pretrain.evaluate_every) == (7, 9)


def test_a_budget_keeps_what_the_user_set() -> None:
    chosen, _ = fit_to_budget(
        600.0, 2_000_000, {"depth": 2, "model": {"hidden_size": 64}, "pretrain": {"num_steps": 60}}
    )
    assert (chosen.depth, chosen.model.hidden_size, chosen.pretrain.num_steps) == (2, 64, 60)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("0.5m", 30)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "soon", "-5m", "0", "nan", "inf", "5 minutes", "1e999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="5m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("rows", "context", "device", "sizes"),
    [
        (8, 256, "cpu", [8]),
        (16, 256, "cpu", [8]),
        (32, 256, "cpu", [8, 16, 32]),
        (12, 512, "cpu", [4, 8, 12]),
        (4, 4096, "cpu", [1, 2, 4]),
        (16, 256, "cuda", [16]),
        (512, 1024, "cuda", [256, 512]),
        (1, 8192, "cuda", [1]),
    ],
)
def test_small_updates_have_one_size_of_pass(rows: int, context: int, device: str, sizes: list[int]) -> None:
    assert pass_sizes(rows, context, device) == sizes


def test_a_stage_runs_under_everything_that_the_probe_chose() -> None:
    plan = fake_probe(1_000.0).plan.replace(matmul="onednn", attention="stored", compile=True, threads=2)
    settled = settled_execution(ExecutionSettings(), plan.to_dict(), rows=8)
    again = unprobed_plan(settled, 32)
    assert again.replace(machine="") == plan.replace(machine="")
    tuning = settled_execution(ExecutionSettings(), plan.to_dict(), rows=16, may_compile=False)
    assert tuning.compile == "off" and tuning.micro_batch == 16
    assert settled_execution(ExecutionSettings(compile="on"), plan.to_dict(), rows=8, may_compile=False).compile == "on"
