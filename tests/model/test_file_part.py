"""Parts of kind `file`: a recurrent mixer proves that the cache protocol holds more than keys and values; each way in
which a mixer can misbehave is caught and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.model.config import FilePartConfig, LayerConfig, TransformerConfig
from groundup.model.parts import PARTS
from groundup.model.parts.file import load_class
from groundup.model.transformer import Transformer, build

# A decaying sum of projected tokens: its state is one vector per row, whatever the length.
RECURRENT = '''
"""A mixer with a state of fixed size."""
from __future__ import annotations
import dataclasses
import torch
from torch import nn


@dataclasses.dataclass
class State:
    total: torch.Tensor
    length: int = 0

    def update(self, *new):
        (self.total,) = new
        return new

    def snapshot(self):
        return self.total.clone(), self.length

    def restore(self, snapshot):
        self.total, self.length = snapshot[0].clone(), snapshot[1]

    def fork(self, rows=None):
        return State(self.total.clone() if rows is None else self.total[list(rows)], self.length)


class Decay(nn.Module):
    def __init__(self, hidden_size, decay=0.9):
        super().__init__()
        self.decay = decay
        self.into, self.out = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def new_cache(self, batch_size, max_length):
        return State(torch.zeros(batch_size, self.out.in_features))

    def forward(self, x, context, cache=None):
        new = torch.tanh(self.into(x))
        if context.token_mask is not None:
            new = new * context.token_mask[..., None]
        total = torch.zeros_like(new[:, 0]) if cache is None else cache.total
        sums = []
        for at in range(x.shape[1]):
            if context.segments is not None and at > 0:
                same = context.segments[:, at] == context.segments[:, at - 1]
                total = total * same[:, None]
            total = self.decay * total + new[:, at]
            sums.append(total)
        if cache is not None:
            cache.update(total.detach())
            cache.length += x.shape[1]
        return self.out(torch.stack(sums, dim=1))
'''
NO_MASK = "        if context.token_mask is not None:\n            new = new * context.token_mask[..., None]\n"
SEGMENTS = RECURRENT[
    RECURRENT.index("            if context.segments") : RECURRENT.index("            total = self.decay")
]


def recurrent_config(config: TransformerConfig, path: Path, **options: float) -> TransformerConfig:
    """Every second layer's attention replaced by the part."""
    part = FilePartConfig(path=str(path), name="Decay", options=dict(options))
    (_, layer), *_ = config.stack
    other = LayerConfig(mixer=part, mlp=layer.mlp, norm=layer.norm)
    return config.model_copy(update={"stack": ((1, layer), (2, other), (1, layer))})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "decay.py"
    file.write_text(RECURRENT)
    return file


@pytest.fixture
def model(path: Path, small_config: Callable[..., TransformerConfig]) -> Transformer:
    return build(recurrent_config(small_config("qwen3"), path, decay=0.8), seed=4, trust_code=True)


def close(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).detach().abs().max() <= 1e-5 * expected.detach().abs().max()


def test_refused_without_trust(path: Path, small_config: Callable[..., TransformerConfig]) -> None:
    path.write_text("raise SystemExit('this must not run')")
    with pytest.raises(ModelError, match=r"part 'Decay' of the file .*decay\.py.*trust_code=True"):
        build(recurrent_config(small_config("qwen3"), path))


def test_the_options_arrive_and_the_seed_decides(path: Path, small_config: Callable[..., TransformerConfig]) -> None:
    config = recurrent_config(small_config("qwen3"), path, decay=0.5)
    first, again, other = (build(config, seed=seed, trust_code=True) for seed in (1, 1, 2))
    assert first.layers[1].attn.decay == 0.5  # type: ignore[union-attr]
    key = "layers.2.attn.into.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], first.state_dict()["layers.1.attn.into.weight"])


def test_cache_chunks_snapshot_restore_and_fork(model: Transformer, ids: Callable[..., Tensor]) -> None:
    text = ids(2, 20)
    with torch.no_grad():
        whole = model(text)
        cache = model.new_cache(2)
        close(torch.cat([model(piece, cache=cache) for piece in text[:, :12].split([5, 1, 6], 1)], 1), whole[:, :12])
        saved, branch = cache.snapshot(), cache.fork()
        close(model(text[:, 12:], cache=cache), whole[:, 12:])
        close(model(text[:, 12:], cache=branch), whole[:, 12:])
        cache.restore(saved)
        assert cache.length == 12
        model(ids(2, 3, seed=9), cache=cache)  # a wrong guess, taken back
        cache.restore(saved)
        close(model(text[:, 12:], cache=cache), whole[:, 12:])
        cache.restore(saved)
        swapped = cache.fork([1, 0, 0])
        close(model(text[[1, 0, 0], 12:], cache=swapped), whole[[1, 0, 0], 12:])
        with pytest.raises(ModelError, match=r"State cannot be truncated from 12 to 3 tokens: take a snapshot"):
            cache.truncate(3)
        assert cache.length == 12, "a refused truncation changes no layer"
        close(model(text[:, 12:], cache=cache), whole[:, 12:])


def test_padding_segments_and_gradients(model: Transformer, ids: Callable[..., Tensor]) -> None:
    text = ids(2, 11)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, :4] = False
    with torch.no_grad():
        close(model(text, mask=mask)[1, 4:], model(text[1:, 4:])[0])
        cache = model.new_cache(2)
        parts = [model(text[:, :6], mask=mask[:, :6], cache=cache), model(text[:, 6:], cache=cache)]
        close(torch.cat(parts, 1)[1, 4:], model(text[1:, 4:])[0])
        segments = torch.tensor([[0] * 4 + [1] * 7]).expand(2, -1)
        close(model(text, segments=segments), torch.cat((model(text[:, :4]), model(text[:, 4:])), 1))
    model(text).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def changed(old: str, new: str) -> str:
    assert old in RECURRENT
    return RECURRENT.replace(old, new)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            changed("torch.stack(sums, dim=1))", "torch.stack(sums, dim=1))[..., :-1]"),
            r"an input of shape \[2, 9, 40\] into \[2, 9, 39\]: keep the shape",
        ),
        (changed("return self.out(torch.stack(sums, dim=1))", "return None"), "into NoneType: keep the shape"),
        (
            changed("new = torch.tanh(self.into(x))", "new = torch.tanh(self.into(x)) + x.mean(1, keepdim=True)"),
            "looks into the future: changing tokens 5 to 8 changes earlier ones",
        ),
        (
            changed("new = torch.tanh(self.into(x))", "new = torch.tanh(self.into(x)) + x.mean(0, keepdim=True)"),
            "mixes the rows of a batch: changing row 1 changes row 0",
        ),
        (changed(NO_MASK, ""), "reads padding: 4 masked tokens on the left change the result"),
        (changed(SEGMENTS, ""), r"lets packed documents see each other: .*NotImplementedError"),
        (changed("else cache.total", "else cache.total * 0"), "gives another result with its cache than without"),
        (changed("cache.length += x.shape[1]", "cache.length += 1"), "says length 1 after 5 tokens"),
        (
            changed("self.total, self.length = snapshot[0].clone(), snapshot[1]", "self.length = snapshot[1]"),
            "does not return to a snapshot of its cache",
        ),
        (
            changed("self.total[list(rows)]", "self.total.clone()"),
            r"does not fork the rows asked for: fork\(\[1, 0\]\)",
        ),
        (changed("def snapshot(self):", "def other(self):"), r"\(State\) has no snapshot"),
        (changed("def new_cache", "def make_cache"), "has no method new_cache"),
        (changed("self.into(x))", "self.into(x[..., :3]))"), r"failed on an input of \[2, 9, 40\]: RuntimeError"),
        (changed("sums.append(total)", "sums.append(total / 0)"), "values that are not finite"),
        (changed("torch.tanh(self.into(x))", "torch.tanh(self.into(x)).detach()"), "passes no gradient back"),
        (changed("def __init__(self, hidden_size, decay=0.9)", "def __init__(self, size)"), "TypeError: .*decay"),
        (
            changed("import dataclasses", "import not_a_module"),
            r"failed to import: ModuleNotFoundError: .*not_a_module",
        ),
        ("def Decay(x): return x\n", r"has no class 'Decay' \(known: none\)"),
        ("class Decay:\n    pass\n", "Decay of .* is a object; a part is a torch.nn.Module"),
        (changed("class Decay(nn", "class Decoy(nn"), r"has no class 'Decay' \(did you mean 'Decoy'\?\)"),
    ],
)
def test_conformance_names_what_is_wrong(
    code: str, message: str, path: Path, small_config: Callable[..., TransformerConfig]
) -> None:
    path.write_text(code)
    with pytest.raises(ModelError, match=message):
        build(recurrent_config(small_config("qwen3"), path, decay=0.8), trust_code=True)


def test_a_leak_behind_a_projection_of_zeros_is_found(
    path: Path, small_config: Callable[..., TransformerConfig]
) -> None:
    leaking = changed("new = torch.tanh(self.into(x))", "new = torch.tanh(self.into(x)) + x.mean(1, keepdim=True)")
    path.write_text(
        leaking.replace(
            "nn.Linear(hidden_size, hidden_size)\n",
            "nn.Linear(hidden_size, hidden_size)\n        nn.init.zeros_(self.out.weight)\n",
        )
    )
    with pytest.raises(ModelError, match="looks into the future"):
        build(recurrent_config(small_config("qwen3"), path), trust_code=True)


def test_segments_may_be_refused(path: Path, small_config: Callable[..., TransformerConfig]) -> None:
    path.write_text(changed(SEGMENTS, "            if context.segments is not None: raise NotImplementedError('no')\n"))
    model = build(recurrent_config(small_config("qwen3"), path), trust_code=True)
    with pytest.raises(NotImplementedError):
        model(torch.ones(1, 2, dtype=torch.long), segments=torch.zeros(1, 2, dtype=torch.long))


def test_missing_file_and_edited_file(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"part 'X' should be in .*nothing\.py, and there is no such file"):
        load_class(tmp_path / "nothing.py", "X")
    first = load_class(path, "Decay")
    assert load_class(path, "Decay") is first
    path.write_text(RECURRENT + "\nEDITED = 1\n")
    assert load_class(path, "Decay") is not first


def test_the_packages_own_mixers_conform(small_config: Callable[..., TransformerConfig]) -> None:
    from groundup.model.parts import Builder
    from groundup.model.parts.conformance import check_mixer

    for name in ("gpt2", "llama3", "qwen3"):
        config = small_config(name)
        mixer = Builder(PARTS, 0, False)(config.layers()[0].mixer, config.hidden_size)
        check_mixer(mixer, config.hidden_size, name)
