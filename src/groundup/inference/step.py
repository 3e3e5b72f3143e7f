"""A model as a plan of kernels: what a step computes, as data that one interpreter runs.

`Step` takes a composition and its weights in tiles and writes down, once, which kernels run on which buffers. A call
sets the tokens, their rows of the batch and their places in the cache, and runs the plan. Decoding, prompts and batches
are the same call with other tokens: a token's numbers do not depend on those beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import KernelsMissingError
from groundup.core.jit import StepKernel, numba_works, openmp_parallel
from groundup.core.progress import Progress
from groundup.inference.step_cache import StepCache
from groundup.inference.step_plan import COLUMNS, STATE, take_part, work
from groundup.model.config import (
    AttentionConfig,
    DynamicScaling,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    Norm,
    RotaryConfig,
    TransformerConfig,
)
from groundup.model.ops.rotary_angles import rotary_tables_numpy
from groundup.model.ops.step_kernels import (
    ACTIVATES,
    GROUP,
    LAYER_NORM,
    PART,
    PRODUCTS,
    RMS_NORM,
    SEGMENT,
    attend,
    cap,
    group_rows,
    join,
    multiply,
    normalize,
    quantize_rows,
    record_bytes,
    scratch_bytes,
    store,
)
from groundup.model.ops.tiles import BLOCK, FLOAT_KINDS, Tiles
from groundup.model.shapes import parameter_shapes
from groundup.model.weights.tile_source import TileSource

Floats = NDArray[np.float32]
#: Tokens of one call of the plan, at most; longer prompts are read in pieces.
MAX_TOKENS = 128
#: Neighbouring tokens of a row whose queries meet a loaded key together.
GROUP_TOKENS = 8
_LEAST_ROTARY_ROWS = 512
# Parts of a product for each worker.
_PARTS = 4
# Groups of tokens up to which the segments of a text are divided among threads.
_FEW_GROUPS = 4


def compile_kernels(
    config: TransformerConfig, kinds: set[int], threads: int, on_progress: Progress | None = None
) -> None:
    """Compile what a model's plan needs, or load it where it was compiled before.

    Args:
        config: the composition.
        kinds: of the tiles of its matrices.
        threads: that will work together.
        on_progress: called with (kernels that are ready, all kernels).

    Raises:
        KernelsMissingError: where kernels are to be compiled and numba does not work.
    """
    kernels = [multiply, normalize, store, attend, join, work if threads == 1 else take_part]
    for kind in sorted(kinds):
        kernels += [*PRODUCTS[kind], group_rows if kind in FLOAT_KINDS else quantize_rows]
    kernels += [ACTIVATES[layer.mlp.activation] for layer in config.layers()]
    if config.final_logit_softcapping is not None:
        kernels.append(cap)
    kernels = list(dict.fromkeys(kernels))
    for done, kernel in enumerate(kernels):
        if on_progress is not None:
            on_progress(done, len(kernels) + 1)
        if not kernel.is_kept and not numba_works():
            raise KernelsMissingError("numba cannot be used here")
        _ = kernel.address
    if on_progress is not None:
        on_progress(len(kernels), len(kernels) + 1)
    _interpret(threads, np.zeros((0, len(COLUMNS)), np.int64), np.zeros(1, np.int64), np.zeros(len(STATE), np.int64))
    if on_progress is not None:
        on_progress(len(kernels) + 1, len(kernels) + 1)


def _interpret(threads: int, plan: NDArray[np.int64], counters: NDArray[np.int64], state: NDArray[np.int64]) -> None:
    """Run a plan."""
    counters[:] = 0
    arguments = (plan.ctypes.data, len(plan), counters.ctypes.data, state.ctypes.data)
    if threads == 1:
        work(*arguments, 0)
    elif (parallel := openmp_parallel()) is not None:
        call = np.array([0, *arguments], np.int64)
        parallel(take_part.address, call.ctypes.data, threads, 0)
    else:
        from numba import set_num_threads

        from groundup.inference.step_numba import work_together

        set_num_threads(threads)  # of this Python thread; a pool of all CPUs would wake the others for nothing
        work_together(threads, *arguments)


@dataclass
class _Buffer:
    """Rows of float32 (or of rounded activations), one for each token of a call."""

    array: NDArray[np.uint8]

    @property
    def address(self) -> int:
        return self.array.ctypes.data

    @property
    def stride(self) -> int:
        return self.array.strides[0]

    def floats(self, rows: int, width: int) -> Floats:
        """A view of the first values of the first rows."""
        return self.array[:rows].view(np.float32)[:, :width]


@dataclass
class _Rotary:
    """Cosines and sines of one kind of rotary embedding, and the arguments that hold their addresses."""

    config: RotaryConfig
    head_dim: int
    tables: tuple[Floats, Floats]
    users: list[NDArray[np.int64]]

    @property
    def by_token(self) -> bool:
        """True where the angles depend on the length of the text, so that each call makes its own."""
        return isinstance(self.config.scaling, DynamicScaling)


class _Program:
    """Rows of a plan while they are written down; keeps what they point to alive."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.kept: list[Any] = []

    def add(
        self,
        kernel: StepKernel,
        arguments: Sequence[int],
        *,
        part: int,
        fixed: int = 0,
        per_token: int = 0,
        per_group: int = 0,
        per_logit: int = 0,
        waits: bool = True,
        by_segment: bool = False,
    ) -> NDArray[np.int64]:
        """Write down a call of a kernel; returns its arguments, which may be changed later."""
        array = np.array(arguments, np.int64)
        self.kept.append(array)
        row = {
            "kernel": kernel.address,
            "arguments": array.ctypes.data,
            "fixed": fixed,
            "per_token": per_token,
            "per_group": per_group,
            "per_logit": per_logit,
            "part": part,
            "waits": int(waits),
            "by_segment": int(by_segment),
        }
        self.rows.append([row[name] for name in COLUMNS])
        return array

    def table(self) -> NDArray[np.int64]:
        return np.array(self.rows, np.int64)


class Step:
    """A model's forward pass over flat lists of tokens.

    Args:
        config: the composition, of which `why_not_compiled` must have nothing to say.
        weights: its weights.
        threads: that work together; more than 1 needs a `parallel_layer`.
        max_tokens: tokens of one call.
        on_progress: called with (layers made, all layers).

    Attributes:
        num_bytes: of the weights in tiles.
    """

    def __init__(
        self,
        config: TransformerConfig,
        weights: TileSource,
        *,
        threads: int = 1,
        max_tokens: int = MAX_TOKENS,
        on_progress: Progress | None = None,
    ) -> None:
        self.config, self.weights, self.max_tokens = config, weights, max_tokens
        self.threads = threads
        self.num_bytes = 0
        self._tiles: dict[str, Tiles] = {}
        self._shapes = parameter_shapes(config)
        self._vectors: dict[tuple[str, int], Floats] = {}
        self._rotary: dict[tuple[str, int], _Rotary] = {}
        self._num_positions = 0
        self._buffers: dict[tuple[str, int], _Buffer] = {}
        self.positions = np.zeros(max_tokens, np.int64)
        self.slots = np.zeros(max_tokens, np.int64)
        self.rows = np.zeros(max_tokens, np.int64)
        self.groups = np.zeros((max_tokens, 2), np.int64)
        self._state = np.zeros(len(STATE), np.int64)
        for name, array in (("positions", self.positions), ("slots", self.slots), ("rows", self.rows)):
            self._set(name, array.ctypes.data)
        self._set("groups", self.groups.ctypes.data)
        body, head = _Program(), _Program()
        self._scratch_bytes = self._record_bytes = 0
        self._records = np.zeros(0, np.uint8)
        self.x = self._buffer("x", config.hidden_size)
        if config.embedding_norm is not None:
            self._add_norm(body, config.embedding_norm, "embed_norm", self.x, self.x)
        self.final = self._buffer("final", config.hidden_size)
        for index, layer in enumerate(config.layers()):
            if on_progress is not None:
                on_progress(index, config.num_hidden_layers)
            self._add_layer(body, index, layer)
        last = self.x
        if config.final_norm is not None:
            self._add_norm(body, config.final_norm, "final_norm", last, self.final)
        else:
            self.final = last
        self._add_head(head)
        self._programs = {"body": body, "head": head}
        self._plans = {name: program.table() for name, program in self._programs.items()}
        self._counters = {name: np.zeros(len(plan) + 1, np.int64) for name, plan in self._plans.items()}
        self._scratch = np.zeros(self._scratch_bytes * self.threads + 64, np.uint8)
        self._set("scratch", self._scratch.ctypes.data + -self._scratch.ctypes.data % 64)
        self._set("scratch_bytes", self._scratch_bytes)
        self.extend_positions(_LEAST_ROTARY_ROWS)

    # Calls ------------------------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Floats,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        cache: StepCache,
        lengths: NDArray[np.int64] | None = None,
    ) -> Floats:
        """Run tokens through the layers and put their keys and values into the cache.

        Args:
            inputs: embeddings, (N, D), N up to max_tokens; tokens of a row are neighbours, in their order.
            rows: row of the batch of each token.
            positions: of each token in its text.
            cache: with room for them; its lengths are not changed.
            lengths: of each token's text, for dynamic scaling; by default position + 1.

        Returns:
            hidden vectors after the final norm, (N, D): a view that the next call overwrites.
        """
        count = len(inputs)
        self.x.floats(count, self.config.hidden_size)[:] = inputs
        self.rows[:count], self.positions[:count] = rows, positions
        num_groups = self._set_places(count, cache)
        self.extend_positions(int(positions.max()) + 1)
        for rotary in self._rotary.values():
            if rotary.by_token:
                self._set_tables(rotary, positions, positions + 1 if lengths is None else lengths)
        self._set("num_tokens", count)
        self._set("num_groups", num_groups)
        self._set("layers", cache.table.ctypes.data)
        self._divide_segments(num_groups, int(self.slots[:count].max()) + 1)
        self._run("body")
        return self.final.floats(count, self.config.hidden_size)

    def logits(self, hidden: Floats) -> Floats:
        """Scores of all tokens after hidden vectors (N, D), N up to max_tokens: (N, V), overwritten by the next call."""
        count = len(hidden)
        view = self.final.floats(count, self.config.hidden_size)
        if hidden.ctypes.data != view.ctypes.data:
            view[:] = hidden
        self._set("num_logits", count)
        self._run("head")
        return self._logits.floats(count, self.config.vocab_size)

    def _divide_segments(self, num_groups: int, longest: int) -> None:
        """Let several threads share a long text where there are few texts; the numbers are the same either way."""
        num_segments = -(-longest // SEGMENT)
        if self.threads == 1 or num_groups > _FEW_GROUPS or num_segments == 1:
            num_segments = 1
        elif len(self._records) < (needed := num_groups * num_segments * self._record_bytes + 64):
            self._records = np.zeros(2 * needed, np.uint8)
            self._set("records", self._records.ctypes.data + -self._records.ctypes.data % 64)
        self._set("num_segments", num_segments)

    def _set_places(self, count: int, cache: StepCache) -> int:
        """Slots in the cache and groups of neighbours; returns the number of groups."""
        if count == 1:
            self.slots[0], self.groups[0] = cache.lengths[self.rows[0]], (0, 1)
            return 1
        groups, start = 0, 0
        rows = self.rows[:count]
        ends = [*(np.flatnonzero(np.diff(rows)) + 1), count]
        for end in ends:
            length = int(cache.lengths[rows[start]])
            self.slots[start:end] = np.arange(length, length + end - start)
            for first in range(start, end, GROUP_TOKENS):
                self.groups[groups] = first, min(GROUP_TOKENS, end - first)
                groups += 1
            start = end
        return groups

    def _run(self, name: str) -> None:
        _interpret(self.threads, self._plans[name], self._counters[name], self._state)

    def _set(self, name: str, value: int) -> None:
        self._state[STATE[name] // 8] = value

    # Rotary tables ----------------------------------------------------------------------------------------------------

    def extend_positions(self, count: int) -> None:
        """Make the tables of cosines and sines long enough for so many positions."""
        if count <= self._num_positions:
            return
        count = max(count, min(2 * self._num_positions, self.config.max_position_embeddings))
        for rotary in self._rotary.values():
            if not rotary.by_token:
                places = np.arange(count)
                self._set_tables(rotary, places, places + 1)
        self._num_positions = count

    def _set_tables(self, rotary: _Rotary, positions: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        rotary.tables = rotary_tables_numpy(positions, rotary.head_dim, rotary.config, lengths)
        for arguments in rotary.users:
            arguments[10], arguments[11] = (table.ctypes.data for table in rotary.tables)

    # Writing the plan -------------------------------------------------------------------------------------------------

    def _buffer(self, name: str, width: int) -> _Buffer:
        """The buffer of that name and width, which all layers share: float32, filled up with zeros to whole blocks."""
        return self._bytes_buffer(name, 4 * _blocks(width) * BLOCK)

    def _bytes_buffer(self, name: str, size: int) -> _Buffer:
        size = -(-size // 64) * 64
        assert self.max_tokens % GROUP == 0
        found = self._buffers.get((name, size))
        if found is None:
            raw = np.zeros(self.max_tokens * size + 64, np.uint8)
            start = -raw.ctypes.data % 64
            found = _Buffer(raw[start : start + self.max_tokens * size].reshape(self.max_tokens, size))
            self._buffers[name, size] = found
        return found

    def _vector(self, name: str, size: int, *, offset: float = 0.0) -> int:
        """The address of a vector plus an offset, filled up with zeros; zeros where the model has none of that name."""
        found = self.weights.vector(name)
        key = ("" if found is None else f"{name} + {offset}", size)
        if key not in self._vectors:
            values = np.zeros(_blocks(size) * BLOCK + BLOCK, np.float32)
            if found is not None:
                values[:size] = found + np.float32(offset)
            self._vectors[key] = values
        return self._vectors[key].ctypes.data

    def _matrix(self, name: str) -> Tiles:
        if name not in self._tiles:
            tiles = self.weights.matrix(name)
            # Kernels trust these numbers with their addresses.
            assert (tiles.rows, tiles.columns) == self._shapes[name], (name, tiles.rows, tiles.columns)
            self._tiles[name] = tiles
            self.num_bytes += self._tiles[name].data.nbytes
        return self._tiles[name]

    def _grouped(self, program: _Program, source: _Buffer, width: int, *, rounded: bool, per_logit: bool) -> _Buffer:
        """Write down how rows come to stand side by side, rounded to eight bits or as they are; returns where."""
        num_blocks = _blocks(width)
        target = self._bytes_buffer("rounded" if rounded else "grouped", (48 if rounded else 128) * num_blocks)
        kernel = quantize_rows if rounded else group_rows
        arguments = (source.address, source.stride, num_blocks, target.address)
        program.add(kernel, arguments, part=1, per_logit=int(per_logit), per_token=int(not per_logit))
        return target

    def _add_products(
        self,
        program: _Program,
        source: _Buffer,
        products: Sequence[tuple[str, _Buffer, bool]],
        *,
        per_logit: bool = False,
    ) -> None:
        """Write down products of the same rows with several matrices.

        Args:
            source: the rows.
            products: name of the matrix (without `.weight`), where the result goes, and whether it is added there.
        """
        matrices = [self._matrix(f"{name}.weight") for name, _, _ in products]
        inputs = {
            rounded: self._grouped(program, source, matrices[0].columns, rounded=rounded, per_logit=per_logit)
            for rounded in {tiles.kind not in FLOAT_KINDS for tiles in matrices}
        }
        for place, (tiles, (name, target, adds)) in enumerate(zip(matrices, products, strict=True)):
            num_tiles = len(tiles.data)
            arguments = (
                tiles.data.ctypes.data,
                tiles.data.strides[0],
                *tiles.parts,
                tiles.num_blocks,
                tiles.group,
                inputs[tiles.kind not in FLOAT_KINDS].address,
                target.address,
                target.stride,
                self._vector(f"{name}.bias", tiles.rows),
                int(adds),
                STATE["num_logits" if per_logit else "num_tokens"],
                *(product.address for product in PRODUCTS[tiles.kind]),
            )
            part = max(1, num_tiles // (_PARTS * self.threads))
            program.add(multiply, arguments, fixed=num_tiles, part=part, waits=place == 0)

    def _add_norm(
        self, program: _Program, norm: Norm, name: str, source: _Buffer, target: _Buffer, *, adds: bool = False
    ) -> None:
        self._add_head_norm(program, norm, name, source, target, self.config.hidden_size, 1, adds=adds)

    def _add_head_norm(
        self,
        program: _Program,
        norm: Norm,
        name: str,
        source: _Buffer,
        target: _Buffer,
        size: int,
        heads: int,
        *,
        adds: bool = False,
        waits: bool = True,
    ) -> None:
        weight = self._vector(f"{name}.weight", size)
        if isinstance(norm, LayerNormConfig):
            epsilon, kind = norm.layer_norm_epsilon, LAYER_NORM
        else:
            epsilon, kind = norm.rms_norm_eps, RMS_NORM
            if norm.unit_offset:
                weight = self._vector(f"{name}.weight", size, offset=1.0)
        arguments = (
            source.address,
            source.stride,
            target.address,
            target.stride,
            size,
            heads,
            weight,
            self._vector(f"{name}.bias", size),
            _float_bits(epsilon),
            kind,
            int(adds),
        )
        program.add(normalize, arguments, per_token=1, part=1, waits=waits)

    def _add_layer(self, program: _Program, index: int, layer: LayerConfig) -> None:
        name = f"layers.{index}"
        assert isinstance(layer.mixer, AttentionConfig)
        mixer = layer.mixer
        self._add_branch(
            program, layer, name, "attn", lambda x, y, adds: self._add_attention(program, index, mixer, x, y, adds)
        )
        self._add_branch(
            program, layer, name, "mlp", lambda x, y, adds: self._add_mlp(program, layer, f"{name}.mlp", x, y, adds)
        )

    def _add_branch(
        self,
        program: _Program,
        layer: LayerConfig,
        name: str,
        branch: str,
        add_branch: Callable[[_Buffer, _Buffer, bool], None],
    ) -> None:
        """Norm, branch and sum as the layer's placement has them (`parts.layer.Layer`)."""
        x, size = self.x, self.config.hidden_size
        source = x
        if layer.placement in ("pre", "sandwich"):
            source = self._buffer("normed", size)
            self._add_norm(program, layer.norm, f"{name}.{branch}_norm", x, source)
        if layer.placement in ("pre", "post"):
            add_branch(source, x, True)
            if layer.placement == "post":
                self._add_norm(program, layer.norm, f"{name}.{branch}_norm", x, x)
            return
        added = self._buffer("added", size)
        add_branch(source, added, False)
        norm_name = f"{name}.{branch}_norm" if layer.placement == "output" else f"{name}.{branch}_post_norm"
        self._add_norm(program, layer.norm, norm_name, added, x, adds=True)

    def _add_attention(
        self, program: _Program, index: int, mixer: AttentionConfig, source: _Buffer, target: _Buffer, adds: bool
    ) -> None:
        name, size = f"layers.{index}.attn", mixer.head_dim
        heads, kv_heads = mixer.num_attention_heads, mixer.num_key_value_heads
        query, key, value = (
            self._buffer(part, count * size)
            for part, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
        )
        products = [(f"{name}.{part}_proj", buffer, False) for part, buffer in (("q", query), ("k", key), ("v", value))]
        self._add_products(program, source, products)
        if mixer.qk_norm is not None:
            for part, buffer, count in (("q", query, heads), ("k", key, kv_heads)):
                shape = (size, count) if mixer.qk_norm_scope == "head" else (count * size, 1)
                norm_name = f"{name}.{part}_norm"
                self._add_head_norm(program, mixer.qk_norm, norm_name, buffer, buffer, *shape, waits=part == "q")
        half = 0 if mixer.rotary is None else mixer.rotary.rotary_dim(size) // 2
        rotary = None if mixer.rotary is None else self._rotary_of(mixer.rotary, size)
        arguments = program.add(
            store,
            (
                query.address,
                query.stride,
                key.address,
                key.stride,
                value.address,
                value.stride,
                heads,
                kv_heads,
                size,
                half,
                0,
                0,
                int(rotary is not None and rotary.by_token),
                index,
            ),
            per_token=1,
            part=1,
        )
        if rotary is not None:
            rotary.users.append(arguments)
        sinks = 0
        if mixer.sink_logits:
            sinks = self._vector(f"{name}.sink_logits", heads)
        mixed = self._buffer("mixed", heads * size)
        own_bytes = record_bytes(size, heads // kv_heads, GROUP_TOKENS)
        self._record_bytes = max(self._record_bytes, own_bytes * kv_heads)
        attended = (
            query.address,
            query.stride,
            mixed.address,
            mixed.stride,
            heads,
            kv_heads,
            size,
            index,
            _float_bits((mixer.query_pre_attn_scalar or size) ** -0.5),
            _float_bits(mixer.attn_logit_softcapping or 0.0),
            mixer.sliding_window or 0,
            mixer.num_sink_tokens,
            sinks,
            own_bytes,
        )
        program.add(attend, attended, per_group=kv_heads, part=1, by_segment=True)
        program.add(join, attended, per_group=kv_heads, part=1)
        self._scratch_bytes = max(self._scratch_bytes, scratch_bytes(size, heads // kv_heads, GROUP_TOKENS))
        self._add_products(program, mixed, [(f"{name}.o_proj", target, adds)])

    def _rotary_of(self, config: RotaryConfig, head_dim: int) -> _Rotary:
        key = (config.to_json(), head_dim)
        if key not in self._rotary:
            empty = np.zeros((0, 0), np.float32)
            self._rotary[key] = _Rotary(config, head_dim, (empty, empty), [])
        return self._rotary[key]

    def _add_mlp(
        self, program: _Program, layer: LayerConfig, name: str, source: _Buffer, target: _Buffer, adds: bool
    ) -> None:
        mlp = layer.mlp
        first = "gate" if isinstance(mlp, GatedMLPConfig) else "up"
        inner = self._buffer("inner", mlp.intermediate_size)
        other = self._buffer("other", mlp.intermediate_size)
        products = [(f"{name}.{first}_proj", inner, False)]
        if first == "gate":
            products.append((f"{name}.up_proj", other, False))
        self._add_products(program, source, products)
        num_vectors = -(-mlp.intermediate_size // 16)
        num_parts = -(-num_vectors // PART)
        gated = other.address if first == "gate" else 0
        arguments = (inner.address, inner.stride, gated, inner.address, num_vectors, num_parts)
        program.add(ACTIVATES[mlp.activation], arguments, per_token=num_parts, part=1)
        self._add_products(program, inner, [(f"{name}.down_proj", target, adds)])

    def _add_head(self, program: _Program) -> None:
        name = "embed" if self.config.tie_word_embeddings else "head"
        logits = self._buffer("logits", self.config.vocab_size)
        self._add_products(program, self.final, [(name, logits, False)], per_logit=True)
        limit = self.config.final_logit_softcapping
        if limit is not None:
            num_vectors = -(-self.config.vocab_size // 16)
            arguments = (logits.address, logits.stride, num_vectors, _float_bits(limit))
            program.add(cap, arguments, per_logit=num_vectors, part=16 * PART)
        self._logits = logits


def _blocks(width: int) -> int:
    return -(-width // BLOCK)


def _float_bits(value: float) -> int:
    """A number's bits as float32, as kernels take them among whole numbers."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
