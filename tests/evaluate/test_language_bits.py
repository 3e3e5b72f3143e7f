"""Bits per byte against a definition that predicts one token at a time."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, UsageError
from groundup.evaluate import language
from groundup.evaluate.language import bits_per_byte, document_bits, windows_of
from groundup.tokenizer import SPECIAL_TOKENS, ByteBPE
from groundup.tokenizer.base import document_start_id


def random_documents(seed: int, count: int, longest: int, vocab: int = 260) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(vocab) for _ in range(source.randint(0, longest))] for _ in range(count)]


def stream_bits(model, tokens: list[int], context: int, stride: int) -> list[float]:
    """Each token from its own forward pass over exactly the tokens that its window shows it; the first costs 0."""
    bits = [0.0]
    for target in range(1, len(tokens)):
        if target <= context:
            begin = 0
        else:
            end = context + -(-(target - context) // stride) * stride
            begin = min(end, len(tokens) - 1) - context
        with torch.no_grad():
            hidden = model(torch.tensor([tokens[begin:target]]))
            logits = model.logits(hidden[:, -1:])[0, 0].double()
        bits.append(-float(logits.log_softmax(-1)[tokens[target]]) / math.log(2))
    return bits


def bits_by_definition(model, document: list[int], separator: int, context: int, stride: int) -> float:
    return sum(stream_bits(model, [separator, *document], context, stride))


@pytest.mark.parametrize(("context", "stride"), [(24, 12), (24, 24), (7, 3), (5, 1), (1, 1)])
def test_equals_one_prediction_at_a_time(tiny_lm, context: int, stride: int) -> None:
    model, documents = tiny_lm(), random_documents(context, 5, 40)
    sizes = [2 * len(document) for document in documents]
    found = document_bits(model, documents, sizes, separator_id=256, context=context, stride=stride, batch_tokens=50)
    expected = [bits_by_definition(model, document, 256, context, stride) for document in documents]
    assert found.bits == pytest.approx(np.array(expected), rel=1e-5)
    assert found.num_tokens.tolist() == [len(document) for document in documents]
    assert found.bits_per_byte == pytest.approx(sum(expected) / sum(sizes), rel=1e-5)
    assert found.bits_per_token == pytest.approx(2 * found.bits_per_byte)
    assert found.perplexity == pytest.approx(2**found.bits_per_token)


@pytest.mark.parametrize(("context", "stride"), [(24, 6), (24, 24), (5, 2)])
def test_documents_of_a_group_are_read_one_after_the_other(tiny_lm, context: int, stride: int) -> None:
    """The charge of each document equals that of the whole stream, read one prediction at a time."""
    model, documents = tiny_lm(5), random_documents(9, 7, 30)
    documents[2], documents[3] = [], [5, 6, 7]
    groups = ["a", "a", "a", "b", "b", "a", "c"]
    sizes = [len(document) for document in documents]
    found = document_bits(
        model, documents, sizes, separator_id=256, groups=groups, context=context, stride=stride, batch_tokens=70
    )
    expected = np.zeros(7)
    for members in ([0, 1], [3, 4], [5], [6]):
        stream = [token for index in members for token in (256, *documents[index])]
        owners = [owner for index in members for owner in (-1, *[index] * len(documents[index]))]
        for place, bits in enumerate(stream_bits(model, stream, context, stride)):
            if owners[place] >= 0:
                expected[owners[place]] += bits
    assert found.bits == pytest.approx(expected, rel=1e-5)
    alone = document_bits(model, documents, sizes, separator_id=256, context=context, stride=stride)
    assert found.bits[[3, 5, 6]] == pytest.approx(alone.bits[[3, 5, 6]], rel=1e-6)
    assert abs(found.bits[4] - alone.bits[4]) > 1e-4 and found.bits[2] == 0


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_every_token_is_predicted_once_and_sees_enough(num_tokens: int, context: int, data) -> None:
    stride = data.draw(st.integers(1, context))
    counted = []
    for window in windows_of(3, num_tokens, context, stride):
        assert window.stream == 3
        assert 0 <= window.begin <= window.first_counted < window.end <= num_tokens
        assert window.end - window.begin <= context
        for index in range(window.first_counted, window.end):
            counted.append(index)
            assert index + 1 - window.begin >= min(index + 1, context - stride + 1)
    assert counted == list(range(num_tokens))


@pytest.mark.parametrize("rows", [1, 3, 1_000])
def test_batching_and_chunked_logits_do_not_change_the_bits(tiny_lm, monkeypatch, rows: int) -> None:
    model, documents = tiny_lm(1), random_documents(1, 12, 60)
    sizes = [len(document) for document in documents]
    whole = document_bits(model, documents, sizes, separator_id=256)
    monkeypatch.setattr(language, "LOGIT_ROWS", rows)
    for batch_tokens in (1, 60, 100_000):
        again = document_bits(model, documents, sizes, separator_id=256, batch_tokens=batch_tokens)
        assert again.bits == pytest.approx(whole.bits, rel=1e-5)


def test_a_uniform_model_needs_log2_of_its_vocabulary_and_bfloat16_is_near(tiny_lm, byte_tokenizer) -> None:
    model = tiny_lm()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    texts = ["hello there", "", "äöü €", "x" * 100]
    found = bits_per_byte(model, byte_tokenizer, texts)
    assert found.bits_per_byte == pytest.approx(math.log2(260), rel=1e-5)
    assert found.num_bytes.tolist() == [11, 0, 10, 100]
    random_model = tiny_lm(2)
    exact = bits_per_byte(random_model, byte_tokenizer, texts).bits_per_byte
    rough = bits_per_byte(random_model, byte_tokenizer, texts, precision="bfloat16").bits_per_byte
    assert rough == pytest.approx(exact, rel=0.05) and rough != exact


def test_the_probabilities_of_all_texts_sum_to_at_most_one(tiny_lm) -> None:
    """Bits are code lengths: over all documents of two tokens their probabilities add up to 1."""
    model = tiny_lm(3, vocab_size=9)
    documents = [[a, b] for a in range(9) for b in range(9)]
    found = document_bits(model, documents, [2] * 81, separator_id=8)
    assert (2.0**-found.bits).sum() == pytest.approx(1, abs=1e-5)


def test_progress_modes_and_gradients(tiny_lm) -> None:
    model, documents, seen = tiny_lm(), random_documents(4, 6, 50), []
    model.train()
    sizes = [len(document) for document in documents]
    document_bits(
        model, documents, sizes, separator_id=256, batch_tokens=60, on_progress=lambda *news: seen.append(news)
    )
    assert model.training and torch.is_grad_enabled()
    assert seen[-1][0] == seen[-1][1] >= sum(sizes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) > 1


@pytest.mark.parametrize(
    ("error", "documents", "sizes", "options", "part"),
    [
        (UsageError, [[1]], [1], {"context": 25}, r"context \(25\) must lie between 1 and .* \(24\)"),
        (UsageError, [[1]], [1], {"context": 0}, r"context \(0\)"),
        (UsageError, [[1]], [1], {"context": 4, "stride": 5}, r"stride \(5\) must lie between 1 and context \(4\)"),
        (UsageError, [[1]], [1], {"precision": "float8"}, "precision 'float8' is unknown"),
        (DataError, [[1]], [1, 2], {}, "1 documents and 2 byte counts"),
        (DataError, [[1], [260]], [1, 1], {}, "document 1 .* holds the id 260, the model knows 0 to 259"),
        (DataError, [[-1]], [1], {}, "document 0 .* holds the id -1"),
        (DataError, [[1], [260]], [1, 1], {"groups": ["a", "a"]}, "document 1 .* holds the id 260"),
        (DataError, [[1], [2]], [1, 1], {"groups": ["a"]}, "2 documents and 1 groups"),
        (DataError, [[]], [0], {}, "the 1 documents hold no bytes"),
        (DataError, [[1], []], [1, 4], {}, "document 1 has 0 tokens and 4 bytes"),
    ],
)
def test_faults_name_the_values(tiny_lm, error, documents, sizes, options, part: str) -> None:
    with pytest.raises(error, match=part):
        document_bits(tiny_lm(), documents, sizes, separator_id=256, **options)


def test_a_damaged_model_is_named_and_not_averaged(tiny_lm) -> None:
    model = tiny_lm()
    with torch.no_grad():
        next(model.parameters())[7] = float("nan")
    with pytest.raises(DataError, match="document 0 of 3 bits = nan"):
        document_bits(model, [[1, 2], [7, 8], [3]], [2, 2, 1], separator_id=256)


def test_a_text_begins_with_what_the_model_expects_before_it(tiny_lm) -> None:
    """A prefix (Llama, Gemma) comes before the end of text; a bos that is none (SmolLM2's `<|im_start|>`) does not."""
    model, texts = tiny_lm(), ["A text.", "Another"]
    vocab, special = ByteBPE.from_merges([]).vocab, {name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)}
    roles = {"bos": "<|im_start|>", "eos": "<|im_end|>"}
    plain = ByteBPE(vocab, [], special_tokens=special, **roles)
    prefixed = ByteBPE(vocab, [], special_tokens=special, **roles, prefix=("<|pad|>",))
    bare = ByteBPE(vocab, [], special_tokens={"<s>": 256, "</s>": 257}, bos="<s>", eos="</s>")
    for tokenizer, start in ((plain, 256), (prefixed, 259), (bare, 257)):
        assert document_start_id(tokenizer) == start
        found = bits_per_byte(model, tokenizer, texts)
        expected = [bits_by_definition(model, tokenizer.encode(text), start, 24, 12) for text in texts]
        assert found.bits == pytest.approx(np.array(expected), rel=1e-5)
    assert document_start_id(ByteBPE.from_merges([], special_tokens=())) is None
