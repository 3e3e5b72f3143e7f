"""The scalar engine beside torch on random graphs, and the drawing of a graph."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.graph_svg import MAX_NODES, draw_graph
from groundup.foundations.scalar import MLP, Value, cross_entropy, dot, total

BINARY = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / (y * y + 1.5),
}
UNARY = {
    "tanh": lambda x: x.tanh(),
    "relu": lambda x: x.relu(),
    "exp": lambda x: (x * 0.1).exp(),
    "log": lambda x: (x * x + 0.5).log(),
    "cube": lambda x: x**3 * 0.01,
    "root": lambda x: (x * x + 1) ** 0.5,
    "neg": lambda x: -x,
    "mixed": lambda x: 2 - x * 3 + 1 / (x * x + 2) - (x - 1) / 4,
}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-2, 2), min_size=2, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(sorted(BINARY) + sorted(UNARY)), st.integers(0, 50), st.integers(0, 50)), max_size=14
    ),
)
def test_random_graphs_equal_torch(inputs: list[float], steps: list[tuple[str, int, int]]) -> None:
    ours = [Value(x) for x in inputs]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    leaves = list(zip(ours, theirs, strict=True))
    for name, i, j in steps:
        for pool in (ours, theirs):
            first, second = pool[i % len(pool)], pool[j % len(pool)]
            bounded = BINARY[name](first, second) if name in BINARY else UNARY[name](first)
            pool.append((bounded * 0.2).tanh() * 3 if abs(float(getattr(bounded, "data", bounded))) > 50 else bounded)
    result, expected = total(ours), torch.stack(theirs).sum()
    result.backward()
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    for value, tensor in leaves:
        assert value.grad == pytest.approx(float(tensor.grad), rel=1e-9, abs=1e-9)


def test_a_value_used_twice_and_a_second_backward_add_up() -> None:
    x = Value(3.0)
    y = x * x + x
    y.backward()
    assert x.grad == 7 and y.grad == 1
    y.backward()
    assert x.grad == 14
    z = x
    z += 1  # makes a new number
    assert x.data == 3 and z.data == 4


def test_ten_thousand_steps_deep() -> None:
    x = y = Value(1.0)
    for _ in range(20 * sys.getrecursionlimit()):
        y = y + x
    y.backward()
    assert x.grad == 1 + 20 * sys.getrecursionlimit()


def test_what_is_no_real_number_is_refused() -> None:
    with pytest.raises(UsageError, match="logarithm of -1"):
        Value(-1.0).log()
    with pytest.raises(UsageError, match="no real number"):
        Value(-1.0) ** 0.5
    with pytest.raises(UsageError, match="exponent must be a plain number"):
        Value(2.0) ** Value(2.0)  # type: ignore[operator]
    with pytest.raises(UsageError, match="dot product of 1 and 2"):
        dot([Value(1)], [Value(1), Value(2)])


def test_cross_entropy_equals_torch_and_does_not_overflow() -> None:
    numbers = [1000.0, 998.5, -3.0]
    logits = [Value(x) for x in numbers]
    loss = cross_entropy(logits, 1)
    loss.backward()
    theirs = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(theirs, torch.tensor(1))
    expected.backward()
    assert loss.data == pytest.approx(expected.item(), abs=1e-12)
    assert [logit.grad for logit in logits] == pytest.approx(theirs.grad.tolist(), abs=1e-12)


def test_an_mlp_learns_xor() -> None:
    model = MLP([2, 8, 2], seed=1)
    points = [((x, y), int(x != y)) for x in (0, 1) for y in (0, 1)]
    for _ in range(200):
        loss = total(cross_entropy(model(xs), target) for xs, target in points)
        for value in model.parameters():
            value.grad = 0.0
        loss.backward()
        for value in model.parameters():
            value.data -= 0.5 * value.grad
    assert loss.data < 0.1
    assert len(model.parameters()) == 2 * 8 + 8 + 8 * 2 + 2


def test_the_drawing_holds_every_number_once() -> None:
    random = Random(0)
    a, b, c = (Value(random.random(), label=name) for name in ("a", "b<", 'c"'))
    result = (a * b + c).tanh() * a
    result.backward()
    root = ET.fromstring(draw_graph(result))
    space = {"s": "http://www.w3.org/2000/svg"}
    texts = [text.text or "" for text in root.findall("s:text", space)]
    assert len(root.findall("s:path", space)) == 7  # one for each parent: *, +, tanh, *
    assert len(texts) == 2 * len(result.ancestors()) == 14
    assert f"b< {b.data:.4g}" in texts and f"grad {a.grad:.4g}" in texts
    boxes = [(float(r.attrib["x"]), float(r.attrib["y"])) for r in root.findall("s:rect", space)[1:]]
    assert len(set(boxes)) == len(boxes), "no two numbers on one place"
    assert max(x for x, _ in boxes) + 132 <= float(root.attrib["width"])


def test_the_drawing_in_the_docs_is_what_is_drawn() -> None:
    a, b, c = Value(2.0, label="a"), Value(-3.0, label="b"), Value(10.0, label="c")
    result = (a * b + c).tanh() * a
    result.backward()
    page = Path(__file__).parents[2] / "docs" / "concepts" / "autograd.svg"
    assert page.read_text(encoding="utf-8") == draw_graph(result) + "\n"


def test_a_graph_that_is_too_large_to_draw_is_refused() -> None:
    with pytest.raises(UsageError, match=f"shows up to {MAX_NODES}"):
        draw_graph(total(Value(float(i)) for i in range(MAX_NODES)))
    assert math.isnan(Value(float("nan")).tanh().data)


def test_numbers_without_a_finite_answer_are_refused_by_name() -> None:
    for fails, told in (
        (lambda: Value(1.0) / Value(0.0), r"0\.0 \*\* -1\.0 or its slope is no finite number"),
        (lambda: Value(0.0) ** 0.5, r"0\.0 \*\* 0\.5 or its slope"),
        (lambda: Value(10.0) ** 400, r"10\.0 \*\* 400 or its slope"),
        (lambda: Value(1000.0).exp(), "e to 1000 is above the largest number"),
        (lambda: cross_entropy([Value(1.0), Value(2.0)], -1), "a target of -1 beside 2 logits: 0 to 1"),
        (lambda: cross_entropy([Value(1.0), Value(2.0)], 2), "a target of 2 beside 2 logits"),
    ):
        with pytest.raises(UsageError, match=told):
            fails()
