"""What a comparison settles before its runs: the files, equal budgets, the widths, what differs, the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError, UsageError
from groundup.model.transformer import build
from groundup.recipes.comparison.budget import (
    Side,
    check_given_steps,
    equal_steps,
    resized,
    steps_in_budget,
)
from groundup.recipes.comparison.differences import differences_of, equal_starts
from groundup.recipes.comparison.ideas import Idea, read_ideas, sizes_of
from groundup.recipes.comparison.outcome import difference_of, mismatch_of, verdict_of
from groundup.recipes.comparison.runs import curve_of, group_sums, update_seconds

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "compare-two-ideas"
MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def idea(tmp_path: Path, name: str, **tables: Any) -> Path:
    model = {**MODEL, **tables.pop("model", {})}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"model": model, **tables}), encoding="utf-8")
    return path


def side(key: str, one: Idea, more: dict[str, Any] | None = None) -> Side:
    settings = one.settings(2, 100_000, more)
    config = one.config(settings, True, vocab_size=300)
    return Side(key, one, settings, config, sizes_of(config, settings.pretrain.context))


def pair(tmp_path: Path, a: dict[str, Any], b: dict[str, Any]) -> tuple[Side, Side]:
    first, second = read_ideas([idea(tmp_path, "first", **a), idea(tmp_path, "second", **b)])
    return side("a", first), side("b", second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nhiden_size = 8", r"one.toml: model has no field 'hiden_size' \(did you mean 'hidden_size'\?\)"),
        ("[train]\nlearning_rat = 1", r"one.toml: train has no field 'learning_rat' \(did you mean 'learning_rate'"),
        ("[trian]\n", r"one.toml holds 'trian', which is not compared \(did you mean 'train'\?\)"),
        ("[corpus]\nsource = 'x'", r"one.toml holds 'corpus': the text is the same for both.*--corpus"),
        ("seed = 3", r"one.toml holds 'seed': both take the same seeds.*--seed"),
        ("[pretrain]\n", r"one.toml holds 'pretrain': the table is called train"),
        ("[model.layer.mlp]\nactivation = 'sulu'", r"one.toml: model.layer: .*'sulu'"),
        ("[train]\nlearning_rate = -1", r"one.toml: train.learning_rate: .*greater than 0 \(got -1\)"),
        ("model = 3", r"one.toml: model is a table of settings, not 3"),
        ("[model", r"one.toml is malformed"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_ideas([tmp_path / "one.toml", tmp_path / "one.toml"])
    with pytest.raises(ConfigError, match=r"cannot read the config file .*two.toml"):
        read_ideas([idea(tmp_path, "fine"), tmp_path / "two.toml"])


def test_files_of_one_name_are_called_a_and_b(tmp_path: Path) -> None:
    path = idea(tmp_path, "same")
    assert [one.name for one in read_ideas([path, path])] == ["A", "B"]


@pytest.mark.parametrize("trained", ["adamw", "muon"])
def test_the_number_of_updates_follows_from_what_is_equal(tmp_path: Path, trained: str) -> None:
    a, b = pair(
        tmp_path,
        {"train": {"context": 32, "batch_size": 8, "optimizer": trained}},
        {"model": {"num_hidden_layers": 4}, "train": {"context": 64, "batch_size": 2}},
    )
    assert equal_steps("tokens", a, b, 100, (1.0, 1.0)) == 200
    assert equal_steps("time", a, b, 100, (0.3, 0.1)) == 300
    steps = equal_steps("flops", a, b, 5000, (1.0, 1.0))
    ratio = steps * b.update_tokens * b.sizes.flops_per_token / (5000 * a.update_tokens * a.sizes.flops_per_token)
    assert ratio == pytest.approx(1, abs=1e-3)


@settings(deadline=None, max_examples=100)
@given(st.floats(1, 1e5), st.integers(1, 9), st.floats(1e-3, 5), st.floats(0, 50), st.floats(1e-3, 5))
def test_a_budget_is_filled_and_not_passed(budget: float, seeds: int, a_s: float, around: float, b_s: float) -> None:
    try:
        steps = steps_in_budget(budget, seeds, a_s, around, b_s, 50)
    except UsageError as error:
        assert seeds * (around + 50 * (a_s + b_s)) > budget * 0.98 and "use --budget" in str(error)
    else:
        used = seeds * (around + steps * (a_s + b_s))
        assert steps >= 50 and used <= budget * 1.0001 and used + seeds * (a_s + b_s) >= budget * 0.9999


def test_updates_that_contradict_the_equal_budget_are_refused(tmp_path: Path) -> None:
    _, b = pair(tmp_path, {}, {})
    for allowed in (None, 100, 80):
        check_given_steps(b, allowed, 100, 80, "flops")
    with pytest.raises(UsageError, match=r"second.json sets train.num_steps = 90.*--match flops\) it gets 80"):
        check_given_steps(b, 90, 100, 80, "flops")


def test_equal_parameters_by_the_width_of_the_mlp(tmp_path: Path) -> None:
    dense = {"layer": {"mlp": {"kind": "dense", "activation": "relu2", "bias": False}}, "intermediate_size": 96}
    a, b = pair(tmp_path, {"model": dense}, {"model": {"intermediate_size": 128}})
    more = resized(a, b.idea, b, 32, False, vocab_size=300)
    assert more == {"model": {"intermediate_size": 64}}  # 2 * 96 = 3 * 64
    a, b = pair(tmp_path, {"model": {"intermediate_size": 120}}, {})
    again = side("b", b.idea, resized(a, b.idea, b, 32, False, vocab_size=300))
    assert abs(again.sizes.parameters / a.sizes.parameters - 1) <= 0.01
    assert resized(a, again.idea, again, 32, False, vocab_size=300) == {}
    assert sum(p.numel() for p in build(again.config).parameters()) == again.sizes.parameters


def test_parameters_that_no_width_gives_are_refused_with_the_numbers(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {}, {"model": {"hidden_size": 128, "num_attention_heads": 8}})
    with pytest.raises(UsageError, match=rf"{b.sizes.parameters:,} parameters and first {a.sizes.parameters:,}"):
        resized(a, b.idea, b, 32, False, vocab_size=300)
    a, b = pair(tmp_path, {}, {"model": {"layer": {"mlp": {"kind": "dense", "intermediate_size": 500}}}})
    with pytest.raises(UsageError, match=r"sets model.layer.mlp.intermediate_size"):
        resized(a, b.idea, b, 32, False, vocab_size=300)


def test_a_part_from_a_file_is_counted_as_if_it_were_known() -> None:
    base, near = read_ideas([EXAMPLE / "base.toml", EXAMPLE / "near.toml"])
    a, b = side("a", base), side("b", near)
    model = build(b.config, trust_code=True)
    assert b.sizes.parameters == sum(p.numel() for p in model.parameters())
    # The part's products are those of plain attention of the same shape: four maps, scores and values.
    assert b.sizes.flops_per_token == a.sizes.flops_per_token
    with pytest.raises(UsageError, match=r"near.toml: .*--trust-code"):
        near.config(near.settings(2, 100_000), False, vocab_size=300)


def test_what_differs_is_told_from_what_follows(tmp_path: Path) -> None:
    a, b = pair(
        tmp_path,
        {"model": {"preset": "gpt2"}},
        {"model": {"hidden_size": 256}, "train": {"optimizer": "adamw", "num_steps": 77}},
    )
    found = {one.name: one for one in differences_of(a, b, "flops", {"train.num_steps"})}
    assert (found["model.preset"].a, found["model.preset"].b, found["model.preset"].why) == (
        "gpt2",
        "qwen3",
        "the files",
    )
    assert found["train.optimizer"].why == "the files" and found["model.hidden_size"].why == "the files"
    assert found["train.num_steps"].why == "equal flops"
    assert found["train.learning_rate"].why == "follows"  # the dial's rate falls with the width
    assert found["model.layer.norm"].a == "layer_norm" and found["model.layer.norm"].why == "follows"
    assert found["model.positions"].b == "none"
    same = differences_of(a, replace(a, key="b"), "tokens", set())
    assert same == []


def test_starting_values_are_compared_one_by_one(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {}, {"model": {"layer": {"mlp": {"kind": "dense", "bias": False}}}})
    same, total = equal_starts(a, b, 0, False)
    mlp = 2 * 64 * 32  # gate_proj is missing in b; up_proj and down_proj have the same names and shapes
    assert total == a.sizes.parameters and same == total - mlp
    deeper = side("b", a.idea, {"model": {"num_hidden_layers": 3}})
    scaled = 2 * (32 * 32 + 32 * 64)  # o_proj and down_proj of two layers start smaller in a deeper model
    assert equal_starts(a, deeper, 0, False)[0] == total - scaled


def results(bits: Any) -> list[dict[str, Any]]:
    return [{"seed": index, "bits": list(row)} for index, row in enumerate(bits)]


def test_the_verdict_says_lower_higher_or_that_it_cannot_be_told() -> None:
    random = np.random.default_rng(0)
    sizes, base = np.full(40, 100.0), random.normal(200, 5, (3, 40))
    noise = random.normal(0, 1, (3, 40))
    lower, seeds = difference_of(results(base), results(base - 3 + noise), list(sizes))
    assert verdict_of("x", "y", lower, 3).startswith("y is lower than x by 0.0")
    assert "95 % interval 0.0" in verdict_of("x", "y", lower, 3) and lower["told"]
    assert [seed["seed"] for seed in seeds] == [0, 1, 2]
    assert np.mean([seed["difference"] for seed in seeds]) == pytest.approx(lower["value"])
    higher, _ = difference_of(results(base), results(base + 3 + noise), list(sizes))
    assert verdict_of("x", "y", higher, 3).startswith("y is higher than x by 0.0")
    unclear, _ = difference_of(results(base), results(base + noise), list(sizes))
    assert "y cannot be told from x: the difference is " in verdict_of("x", "y", unclear, 3)
    equal, _ = difference_of(results(base), results(base), list(sizes))
    assert "there is no difference at all" in verdict_of("x", "y", equal, 3) and not equal["told"]
    single, _ = difference_of(results(base[:1]), results(base[:1] - 3), list(sizes))
    assert "over texts only: another seed may give another result" in verdict_of("x", "y", single, 1)
    nothing, _ = difference_of(results([[1.0]]), results([[2.0]]), [1.0])
    assert nothing["low"] is None and "no interval" in verdict_of("x", "y", nothing, 1)
    json.dumps(nothing, allow_nan=False)


def test_budgets_that_came_out_unequal_are_found() -> None:
    a = {"tokens": 1000, "flops": 10**9, "parameters": 1000, "seconds_of_seeds": [10.0, 10.0]}
    b = {"tokens": 1000, "flops": 2 * 10**9, "parameters": 1005, "seconds_of_seeds": [10.0, 11.5]}
    assert mismatch_of("tokens", a, b)["is_equal"] and mismatch_of("parameters", a, b)["is_equal"]
    assert not mismatch_of("flops", a, b)["is_equal"]
    assert mismatch_of("time", a, b)["time"] == pytest.approx(0.075) and not mismatch_of("time", a, b)["is_equal"]


def test_seconds_count_updates_and_nothing_else() -> None:
    rows = [
        {"tokens": 100, "tokens_per_s": 50.0, "elapsed_s": 2.0},
        {"evaluation": {"bits_per_byte": 3.0}, "elapsed_s": 60.0},
        {"tokens": 200, "tokens_per_s": 100.0, "elapsed_s": 61.0},
        {"evaluation": {"bits_per_byte": None}},
        {"tokens": 300, "tokens_per_s": 100.0, "elapsed_s": 90.0},
        {"evaluation": {"bits_per_byte": 2.0}},
    ]
    assert update_seconds(rows) == pytest.approx(4.0)
    points = [(point["tokens"], point["seconds"], point["bits_per_byte"]) for point in curve_of(rows)]
    assert points == [(100, 2.0, 3.0), (300, 4.0, 2.0)]


def test_groups_are_summed_in_the_order_they_come() -> None:
    assert group_sums(["b", "a", "b"], [1.0, 2.0, 4.0]) == [5.0, 2.0]
