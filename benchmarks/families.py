"""Compares every family with `transformers`: tiny random models that use each option, the same weights on both sides.

python -m benchmarks.families             the table of largest relative differences; exit code 1 above 1e-5
python -m benchmarks.families gemma       the cases whose name begins so

The tests of the model import the cases and the comparisons from here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import relative_difference
from groundup.core.console import fail
from groundup.core.files import read_json
from groundup.inference.generate import generate
from groundup.inference.sampling import Sampling
from groundup.model.config import AttentionConfig, DynamicScaling
from groundup.model.hf_config import from_hf, to_hf
from groundup.model.transformer import Transformer, assemble
from groundup.model.weights.files import WEIGHTS_FILE, load_weights, save_weights
from groundup.model.weights.names import slots

TOLERANCE = 1e-5
VOCABULARY, FIRST_ID = 97, 3  # ids 0 to 2 are pad, bos and eos
NEW_TOKENS = 24
REPETITION_PENALTY = 3.0  # or a random model would write one token again and again, whatever it reads
CHUNKS = (6, 1, 13, 1, 9)  # how a text is read through a cache

_IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SMALL = {
    **_IDS,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_GPT2 = {**_IDS, "model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
# Caps and a divisor that bend scores of the size that the random weights give.
_GEMMA2 = {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 6}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
_FULL, _SLIDING = "full_attention", "sliding_attention"

#: Name -> content of a config.json. Some are in the form of older files (rope_theta and rope_scaling at the top, no
#: layer_types), which both sides have to read.
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT2, "n_inner": None},
    "gpt2-untied-relu": {
        **_GPT2,
        "n_inner": 72,
        "tie_word_embeddings": False,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
    },
    "llama": {**_GROUPED, "model_type": "llama"},
    "llama-tied-biases": {
        **_SMALL,
        "model_type": "llama",
        "num_key_value_heads": 1,
        "head_dim": 20,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-3,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "llama-linear": {
        **_GROUPED,
        "model_type": "llama",
        "rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "llama-dynamic": {
        **_GROUPED,
        "model_type": "llama",
        "max_position_embeddings": 16,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    },
    "llama-3.1": {
        **_GROUPED,
        "model_type": "llama",
        "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 32},
        "max_position_embeddings": 256,
    },
    "mistral": {**_GROUPED, "model_type": "mistral", "sliding_window": 7, "head_dim": None},
    "mistral-no-window": {
        **_GROUPED,
        "model_type": "mistral",
        "sliding_window": None,
        "head_dim": 12,
        "tie_word_embeddings": True,
    },
    "qwen2": {**_GROUPED, "model_type": "qwen2"},
    "qwen2-yarn": {
        **_GROUPED,
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
    "qwen2-window": {
        **_GROUPED,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {**_GROUPED, "model_type": "qwen3", "head_dim": 16},
    "qwen3-tied-biases": {
        **_SMALL,
        "model_type": "qwen3",
        "hidden_size": 40,
        "num_key_value_heads": 6,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "qwen3-window-yarn": {
        **_GROUPED,
        "model_type": "qwen3",
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": [_SLIDING, _FULL, _SLIDING],
        "rope_parameters": {**_YARN, "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3, "truncate": False},
    },
    "gemma2": {**_GEMMA2, **_CAPS, "model_type": "gemma2"},
    "gemma2-no-caps": {
        **_GEMMA2,
        "model_type": "gemma2",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "layer_types": [_FULL, _SLIDING, _SLIDING],
        "hidden_activation": "silu",
    },
    "gemma3": {
        **_GEMMA2,
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 2,
    },
    "gemma3-linear-cap": {
        **_GEMMA2,
        "model_type": "gemma3_text",
        "num_key_value_heads": 1,
        "attention_bias": True,
        "final_logit_softcapping": 5.0,
        "layer_types": [_SLIDING, _FULL, _SLIDING],
        "rope_parameters": {
            _FULL: {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
            _SLIDING: {**_PLAIN_ROPE, "rope_theta": 500.0},
        },
    },
    "olmo2": {**_SMALL, "model_type": "olmo2", "rope_theta": 5e5},
    "smollm3": {**_GROUPED, "model_type": "smollm3", "num_hidden_layers": 5, "rope_theta": 5e5},
    "smollm3-other-layers": {**_GROUPED, "model_type": "smollm3", "no_rope_layers": [1, 0, 0], "mlp_bias": True},
    "olmo2-grouped": {
        **_GROUPED,
        "model_type": "olmo2",
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-3,
    },
    "bert": {**_SMALL, "model_type": "bert"},
    "bert-one-type": {
        **_SMALL,
        "model_type": "bert",
        "type_vocab_size": 1,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
        "num_attention_heads": 3,
    },
}


def _transformers() -> Any:
    return importlib.import_module("transformers")  # seconds to import, and its types are not checked here


def make_theirs(values: dict[str, Any], *, seed: int = 0) -> Any:
    """A random model of `transformers` in evaluation mode with its plain attention; biases and norms are random too."""
    transformers = _transformers()
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(values)))
    config._attn_implementation = "eager"
    auto = transformers.AutoModel if values["model_type"] == "bert" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def load_ours(theirs: Any, folder: Path) -> Transformer:
    """The same model here, through a directory that `transformers` writes."""
    theirs.save_pretrained(folder)
    model = assemble(from_hf(read_json(folder / "config.json")))
    load_weights(folder, model)
    return model.eval()


def reload_in_transformers(model: Transformer, folder: Path) -> tuple[Any, list[str]]:
    """What `transformers` makes of a directory that is written here, and the names that do not fit."""
    transformers = _transformers()
    save_weights(folder / WEIGHTS_FILE, model)
    values = to_hf(model.config)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    is_bert = values["model_type"] == "bert"
    auto = transformers.AutoModel if is_bert else transformers.AutoModelForCausalLM
    # BERT's pooler judged whether two sentences follow each other; it is no part of the encoder here.
    options = {"add_pooling_layer": False} if is_bert else {}
    theirs, info = auto.from_pretrained(folder, output_loading_info=True, attn_implementation="eager", **options)
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return theirs.eval(), [f"{kind}: {name}" for kind in names for name in sorted(map(str, info[kind]))]


def text(rows: int, length: int, *, seed: int = 0) -> Tensor:
    """Random ids; none is the padding id, whose embedding gets no gradient in `transformers`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_ID, VOCABULARY, (rows, length), generator=generator)


def window(model: Transformer) -> int | None:
    """The shortest window of any layer."""
    mixers = [layer.mixer for layer in model.config.layers() if isinstance(layer.mixer, AttentionConfig)]
    return min((mixer.sliding_window for mixer in mixers if mixer.sliding_window is not None), default=None)


def is_dynamic(model: Transformer) -> bool:
    """Dynamic scaling, under which angles depend on the length read so far."""
    mixers = [layer.mixer for layer in model.config.layers() if isinstance(layer.mixer, AttentionConfig)]
    return any(mixer.rotary is not None and isinstance(mixer.rotary.scaling, DynamicScaling) for mixer in mixers)


def our_scores(model: Transformer, ids: Tensor, **options: Any) -> Tensor:
    """Logits, or the last hidden vectors of an encoder."""
    hidden = model(ids, **options)
    return model.logits(hidden) if model.config.has_head else hidden


def their_scores(theirs: Any, ids: Tensor, **options: Any) -> Tensor:
    """As `our_scores`, and independent of what `theirs` read before."""
    with torch.no_grad():
        # Under dynamic scaling it remembers the longest text until it reads one within the trained length.
        theirs(ids[:1, :1])
    result = theirs(ids, **options)
    scores: Tensor = result.logits if hasattr(result, "logits") else result.last_hidden_state
    return scores


def padding(lengths: Sequence[int], *, left: bool) -> tuple[Tensor, Tensor]:
    """A mask with rows of these lengths, and the positions of the tokens; padding is at position 0."""
    width = max(lengths)
    steps = torch.arange(width)[None]
    counts = torch.tensor(lengths)[:, None]
    mask = steps >= width - counts if left else steps < counts
    return mask, (mask.cumsum(1) - 1).clamp(min=0)


def loss_of(scores: Tensor, ids: Tensor, *, has_head: bool) -> Tensor:
    """Mean cross-entropy of the next token; for an encoder, the product with a fixed random direction."""
    if has_head:
        return F.cross_entropy(scores[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return (scores * direction.to(scores.dtype)).mean()


def gradient_differences(model: Transformer, theirs: Any) -> dict[str, float]:
    """Name of ours -> largest difference of the gradients that both hold, over the largest value in the tensor."""
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if "pooler" not in name}
    parameters = dict(model.named_parameters())
    where = slots(theirs.config.model_type, parameters)
    if {slot.theirs for slot in where.values()} != set(gradients):
        raise ValueError(f"not compared: {set(gradients) ^ {slot.theirs for slot in where.values()}}")
    found = {}
    for name, slot in where.items():
        got, expected = parameters[name].grad, slot.take(gradients[slot.theirs])
        assert got is not None
        scale = gradients[slot.theirs].abs().max()  # of the fused tensor, where q, k and v are one
        if name.endswith("k_proj.bias") and model.config.positions is not None:
            # Without rotary a shift of all keys changes no softmax: this gradient is rounding error alone.
            scale = gradients[where[name.replace("k_proj", "q_proj")].theirs].abs().max()
        found[name] = float((got - expected).abs().max() / scale)
    return found


def their_tokens(theirs: Any, prompt: Tensor, count: int) -> list[int]:
    """Greedy tokens of their `generate`, with its cache."""
    theirs.generation_config.eos_token_id = None
    theirs(prompt[:1, :1])
    made = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=count,
        repetition_penalty=REPETITION_PENALTY,
        pad_token_id=0,
    )
    return [int(token) for token in made[0, prompt.shape[1] :]]


def our_tokens(model: Transformer, prompt: Tensor, count: int) -> list[int]:
    """Greedy tokens of our `generate`, with its cache."""
    sampling = Sampling(temperature=0, max_new_tokens=count, repetition_penalty=REPETITION_PENALTY)
    return [step.token for step in generate(model, [int(token) for token in prompt[0]], sampling)]


def read_in_chunks(model: Transformer, ids: Tensor, chunks: Sequence[int] = CHUNKS) -> Tensor:
    """The scores of a text that is read piece by piece through a cache."""
    cache = model.new_cache(ids.shape[0])
    pieces = torch.split(ids, list(chunks), dim=1)
    return torch.cat([our_scores(model, piece, cache=cache) for piece in pieces], dim=1)


@dataclass(frozen=True)
class Parity:
    """One row of the table: largest relative differences, None where a comparison does not apply.

    Attributes:
        logits: of whole texts (of the hidden vectors, for an encoder).
        loss: of that text.
        gradients: of every tensor, each against its own largest value.
        generated: equal greedy tokens and their number, both sides with their cache.
        padding: logits of the real tokens of batches padded on the left and on the right.
        window: logits past the shortest window, read through a cache in pieces, against theirs in one.
        reload: logits of `transformers` from our directory against ours; infinite where a tensor does not fit.
    """

    logits: float
    loss: float
    gradients: float
    generated: tuple[int, int] | None
    padding: float
    window: float | None
    reload: float


def compare_case(values: dict[str, Any]) -> Parity:
    """Make both models of a config.json and compare them in every way."""
    theirs = make_theirs(values)
    with tempfile.TemporaryDirectory(prefix="groundup-families-") as name:
        folder = Path(name)
        model = load_ours(theirs, folder)
        ids = text(3, 30)
        scores, expected = our_scores(model, ids), their_scores(theirs, ids)
        loss, their_loss = (loss_of(one, ids, has_head=model.config.has_head) for one in (scores, expected))
        for one in (loss, their_loss):
            torch.autograd.backward(one)
        gradients = max(gradient_differences(model, theirs).values())
        with torch.no_grad():
            again, problems = reload_in_transformers(model, folder / "again")
            return Parity(
                logits=relative_difference(scores, expected),
                loss=relative_difference(loss, their_loss),
                gradients=gradients,
                generated=_generated(model, theirs) if model.config.has_head else None,
                padding=max(padded_difference(model, theirs, left=left) for left in (True, False)),
                window=_past_window(model, theirs),
                reload=math.inf if problems else relative_difference(their_scores(again, ids), scores.detach()),
            )


def _generated(model: Transformer, theirs: Any) -> tuple[int, int]:
    prompt = text(1, 9, seed=2)
    pairs = zip(our_tokens(model, prompt, NEW_TOKENS), their_tokens(theirs, prompt, NEW_TOKENS), strict=True)
    return sum(ours == expected for ours, expected in pairs), NEW_TOKENS


def _past_window(model: Transformer, theirs: Any) -> float | None:
    size = window(model)
    if size is None:
        return None
    ids = text(2, sum(CHUNKS), seed=3)
    return relative_difference(read_in_chunks(model, ids)[:, size:], their_scores(theirs, ids)[:, size:])


def padded_difference(model: Transformer, theirs: Any, *, left: bool, lengths: Sequence[int] = (5, 21, 12)) -> float:
    """The largest difference of the real tokens of a padded batch, over all rows."""
    ids = text(len(lengths), max(lengths), seed=4)
    mask, positions = padding(lengths, left=left)
    scores = our_scores(model, ids, mask=mask)
    if is_dynamic(model):
        # There the longest row of a batch changes the angles of all rows; here a row is read as it is alone.
        rows = [their_scores(theirs, row[real][None])[0] for row, real in zip(ids, mask, strict=True)]
        return max(relative_difference(scores[index][mask[index]], row) for index, row in enumerate(rows))
    expected = their_scores(theirs, ids, attention_mask=mask.long(), position_ids=positions)
    return relative_difference(scores[mask], expected[mask])


def _cell(value: float | tuple[int, int] | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return f"{'equal' if value[0] == value[1] else 'DIFFERS'} {value[0]}/{value[1]} tokens"
    return f"< {TOLERANCE:.0e}".replace("e-0", "e-") if value < TOLERANCE else f"{value:.1e}"


def table(rows: dict[str, Parity]) -> list[str]:
    """The lines of the table: a bound where a difference is below it, so that machines agree; else the difference."""
    lines = [["case", *(one.name for one in fields(Parity))]]
    lines += [[name, *(_cell(value) for value in astuple(row))] for name, row in rows.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def is_equal(row: Parity) -> bool:
    """True where every difference is below the tolerance and every token is equal."""
    numbers = (row.logits, row.loss, row.gradients, row.padding, row.window or 0.0, row.reload)
    return all(number < TOLERANCE for number in numbers) and (row.generated is None or len(set(row.generated)) == 1)


def main(arguments: list[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description="Compare every family with transformers.")
    parser.add_argument("prefix", nargs="?", default="", help="only the cases whose name begins so")
    options = parser.parse_args(arguments)
    chosen = {name: values for name, values in CASES.items() if name.startswith(options.prefix)}
    if not chosen:
        fail(f"no case begins with {options.prefix!r}: the cases are {', '.join(CASES)}")
        return 2
    transformers = _transformers()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tensors of some thousand values are slower on more
    rows = {name: compare_case(values) for name, values in chosen.items()}
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, eager attention")
    for line in table(rows):
        say(line)
    return 0 if all(is_equal(row) for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
