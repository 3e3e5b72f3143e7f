"""What a mixer must do, checked on small random inputs before a foreign one is used.

A mixer is an nn.Module with `forward(x, context, cache=None)`, Float[B, T, D] to the same shape, where `context` is
the Context of the forward, and `new_cache(batch_size, max_length)`, which returns a LayerCache. It must not look into
the future, mix rows, or read padding, and must give the same result with a cache as without. If it cannot keep packed
documents apart, it raises NotImplementedError when `context.segments` is given.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from groundup.core.errors import ModelError
from groundup.model.cache import LayerCache
from groundup.model.parts.context import Context, count_positions

BATCH, LENGTH, CUT = 2, 9, 5
TOLERANCE = 1e-4  # relative to the largest output; float32 sums in another order differ by some 1e-6


def check_mixer(part: nn.Module, hidden_size: int, name: str) -> None:
    """Check a mixer; its parameters, and the global random state, stay as they are.

    The checks run on a copy with noise added to each parameter: a projection that starts at zero would hide a leak.

    Raises:
        ModelError: naming the part, the check that failed and by how much.
    """
    for method in ("forward", "new_cache"):
        if not callable(getattr(part, method, None)):
            raise ModelError(f"{name} has no method {method}: a mixer needs forward and new_cache")
    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(part).eval().float()
    for parameter in probe.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = torch.nan_to_num(parameter.data, 0.0, 0.0, 0.0).clamp(-10, 10) + noise
    x = torch.randn(BATCH, LENGTH, hidden_size, generator=generator)
    other = torch.randn(BATCH, LENGTH, hidden_size, generator=generator)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        check = _Check(probe, name)
        whole = check.shape(x)
        check.future(x, other, whole)
        check.rows(x, other, whole)
        check.padding(x, other)
        check.segments(x)
        check.cache(x, whole)
    _check_gradient(probe, x, name)


def _context(num_tokens: int, length: int = 0, mask: Tensor | None = None, segments: Tensor | None = None) -> Context:
    device = torch.device("cpu")
    positions = count_positions((BATCH, num_tokens), length=length, mask=mask, segments=segments, device=device)
    return Context(positions, length=length, mask=mask, segments=segments)


class _Check:
    def __init__(self, part: nn.Module, name: str) -> None:
        self.part, self.name = part, name

    def run(self, x: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        try:
            result = self.part(x, context, cache)
        except (ModelError, NotImplementedError):
            raise
        except Exception as error:
            raise ModelError(
                f"{self.name} failed on an input of {list(x.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(result, Tensor) or result.shape != x.shape:
            got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ModelError(f"{self.name} turned an input of shape {list(x.shape)} into {got}: keep the shape")
        return result

    def same(self, got: Tensor, expected: Tensor, problem: str) -> None:
        difference = float((got - expected).abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max()):
            raise ModelError(f"{self.name} {problem} (outputs differ by {difference:.3g})")

    def shape(self, x: Tensor) -> Tensor:
        whole = self.run(x, _context(LENGTH))
        if not bool(torch.isfinite(whole).all()):
            raise ModelError(f"{self.name} returned values that are not finite for a normal random input")
        return whole

    def future(self, x: Tensor, other: Tensor, whole: Tensor) -> None:
        changed = torch.cat((x[:, :CUT], other[:, CUT:]), dim=1)
        got = self.run(changed, _context(LENGTH))[:, :CUT]
        self.same(
            got, whole[:, :CUT], f"looks into the future: changing tokens {CUT} to {LENGTH - 1} changes earlier ones"
        )

    def rows(self, x: Tensor, other: Tensor, whole: Tensor) -> None:
        got = self.run(torch.cat((x[:1], other[1:])), _context(LENGTH))[:1]
        self.same(got, whole[:1], "mixes the rows of a batch: changing row 1 changes row 0")

    def padding(self, x: Tensor, other: Tensor) -> None:
        pad = LENGTH - CUT
        mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
        mask[:, :pad] = False
        padded = torch.cat((other[:, :pad], x[:, :CUT]), dim=1)
        got = self.run(padded, _context(LENGTH, mask=mask))[:, pad:]
        self.same(
            got,
            self.run(x[:, :CUT], _context(CUT)),
            f"reads padding: {pad} masked tokens on the left change the result",
        )

    def segments(self, x: Tensor) -> None:
        segments = (torch.arange(LENGTH) >= CUT).long().expand(BATCH, LENGTH)
        try:
            packed = self.run(x, _context(LENGTH, segments=segments))
        except NotImplementedError:
            return
        alone = torch.cat((self.run(x[:, :CUT], _context(CUT)), self.run(x[:, CUT:], _context(LENGTH - CUT))), dim=1)
        self.same(
            packed,
            alone,
            "lets packed documents see each other: honour context.segments or raise NotImplementedError when it is given",
        )

    def cache(self, x: Tensor, whole: Tensor) -> None:
        cache = self.new_cache()

        def chunks(state: LayerCache, start: int, end: int) -> Tensor:
            return self.run(x[:, start:end], _context(end - start, length=start), state)

        first = chunks(cache, 0, CUT)
        self.length(cache, CUT)
        saved, copied = cache.snapshot(), cache.fork()
        rest = torch.cat([chunks(cache, at, at + 1) for at in range(CUT, LENGTH)], dim=1)
        self.length(cache, LENGTH)
        self.same(torch.cat((first, rest), dim=1), whole, "gives another result with its cache than without")
        self.same(chunks(copied, CUT, LENGTH), whole[:, CUT:], "changes a forked cache when the first one goes on")
        cache.restore(saved)
        self.length(cache, CUT)
        for _ in range(2):  # the snapshot must survive its own use
            self.same(chunks(cache, CUT, LENGTH), whole[:, CUT:], "does not return to a snapshot of its cache")
            cache.restore(saved)
        swapped = cache.fork([1, 0])
        got = self.run(x[[1, 0], CUT:], _context(LENGTH - CUT, length=CUT), swapped)
        self.same(got, whole[[1, 0], CUT:], "does not fork the rows asked for: fork([1, 0]) swaps rows 0 and 1")

    def new_cache(self) -> LayerCache:
        cache = self.part.new_cache(BATCH, LENGTH)  # type: ignore[operator]
        missing = [name for name in ("length", "update", "snapshot", "restore", "fork") if not hasattr(cache, name)]
        if missing:
            raise ModelError(f"the cache of {self.name} ({type(cache).__name__}) has no {', '.join(missing)}")
        self.length(cache, 0)
        return cache  # type: ignore[no-any-return]

    def length(self, cache: LayerCache, expected: int) -> None:
        if cache.length != expected:
            raise ModelError(f"the cache of {self.name} says length {cache.length} after {expected} tokens")


def _check_gradient(part: nn.Module, x: Tensor, name: str) -> None:
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        result = part(leaf, _context(LENGTH))
        gradient = None
        if result.requires_grad:
            (gradient,) = torch.autograd.grad(result.square().sum(), leaf, allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        raise ModelError(f"{name} passes no gradient back to its input")
    if not bool(torch.isfinite(gradient).all()):
        raise ModelError(f"{name} has a gradient that is not finite")
