"""Text in pieces: whole characters, no part of a stop string, and the same text alone or in a batch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.inference.sampling import Sampling
from groundup.inference.text import complete_texts, stream_text

GREEDY = Sampling(temperature=0, max_new_tokens=1_000)
# Few letters, so that stop strings occur; long characters, so that tokens cut them.
texts = st.text(st.sampled_from("aab\n€😀é"), max_size=25)


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], max(complete, key=len)
    return text, None


@settings(deadline=None, max_examples=150)
@given(text=texts, stops=st.lists(st.text(st.sampled_from("ab\n€😀"), min_size=1, max_size=3), max_size=2))
def test_pieces_join_to_the_text_up_to_the_stop_string(scripted, byte_tokenizer, text: str, stops: list[str]) -> None:
    ids = byte_tokenizer.encode(text)
    model = scripted([*ids, byte_tokenizer.eos_id])
    pieces = list(
        stream_text(model, byte_tokenizer, [0], GREEDY.replace(stop=stops), stop_ids=[byte_tokenizer.eos_id], num_top=1)
    )
    expected, found = first_stop(text, stops)
    assert "".join(piece.text for piece in pieces) == expected
    assert "\ufffd" not in "".join(piece.text for piece in pieces)
    assert pieces[-1].finish_reason == ("stop_string" if found else "stop_token")
    assert all(piece.finish_reason is None and piece.text for piece in pieces[:-1])
    # Every generated token is in exactly one piece, and none was generated after the stop string.
    tokens = [step.token for piece in pieces for step in piece.steps]
    whole = [*ids, byte_tokenizer.eos_id]
    read = byte_tokenizer.encode(expected + found) if found else whole
    assert tokens == whole[: len(read)]
    shown = ""
    for piece in pieces:
        shown += piece.text
        assert expected.startswith(shown)


@settings(deadline=None, max_examples=40)
@given(
    text=texts,
    offsets=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    stops=st.lists(st.text(st.sampled_from("ab\n"), min_size=1, max_size=2), max_size=2),
    limit=st.integers(1, 40),
)
def test_a_text_in_a_batch_equals_the_text_alone(
    scripted, byte_tokenizer, text: str, offsets: list[int], stops: list[str], limit: int
) -> None:
    eos = byte_tokenizer.eos_id
    model = scripted([*byte_tokenizer.encode(text), eos])
    # A prompt of n tokens makes the scripted model begin n - 1 tokens into its script.
    prompts = [[0] * offset for offset in offsets]
    sampling = Sampling(temperature=0, max_new_tokens=limit, stop=tuple(stops))
    for prompt, row in zip(
        prompts, complete_texts(model, byte_tokenizer, prompts, sampling, stop_ids=[eos]), strict=True
    ):
        pieces = list(stream_text(model, byte_tokenizer, prompt, sampling, stop_ids=[eos]))
        assert row.text == "".join(piece.text for piece in pieces)
        assert row.finish_reason == pieces[-1].finish_reason
        assert [step.token for step in row.steps] == [step.token for piece in pieces for step in piece.steps]


def test_a_character_that_is_cut_by_the_end_becomes_one_replacement(scripted, byte_tokenizer) -> None:
    model = scripted(byte_tokenizer.encode("a€b"))
    pieces = list(stream_text(model, byte_tokenizer, [0], Sampling(temperature=0, max_new_tokens=3)))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", None), ("\ufffd", "length")]
    assert [len(piece.steps) for piece in pieces] == [1, 2]


def test_text_that_was_held_back_for_a_stop_string_comes_at_the_end(scripted, byte_tokenizer) -> None:
    model = scripted([*byte_tokenizer.encode("hi\nUs"), byte_tokenizer.eos_id])
    sampling = GREEDY.replace(stop=["\nUser:"])
    pieces = list(stream_text(model, byte_tokenizer, [0], sampling, stop_ids=[byte_tokenizer.eos_id]))
    assert [piece.text for piece in pieces] == ["h", "i", "\nUs"]
    assert pieces[-1].finish_reason == "stop_token"


def test_special_tokens_are_not_text_and_can_be_stop_strings(scripted, byte_tokenizer) -> None:
    start, end = (byte_tokenizer.special_tokens[name] for name in ("<|im_start|>", "<|im_end|>"))
    model = scripted(
        [*byte_tokenizer.encode("a"), start, *byte_tokenizer.encode("b"), end, *byte_tokenizer.encode("c")]
    )
    pieces = list(stream_text(model, byte_tokenizer, [0], GREEDY.replace(stop=["<|im_end|>"])))
    assert "".join(piece.text for piece in pieces) == "ab"
    assert pieces[-1].finish_reason == "stop_token"
    # The same characters written out are ordinary text.
    spelled = scripted([*byte_tokenizer.encode("x<|im_start|>y<|im_end|>z"), byte_tokenizer.eos_id])
    rows = complete_texts(spelled, byte_tokenizer, [[0]], GREEDY.replace(stop=["<|im_end|>"]), stop_ids=[256])
    assert (rows[0].text, rows[0].finish_reason) == ("x<|im_start|>y", "stop_string")


def test_closing_the_stream_stops_the_model(scripted, byte_tokenizer) -> None:
    model = scripted(byte_tokenizer.encode("abcdef"))
    reads = []
    handle = model.register_forward_pre_hook(lambda module, args: reads.append(1))
    pieces = stream_text(model, byte_tokenizer, [0], GREEDY)
    assert not reads
    assert next(pieces).text == "a"
    pieces.close()
    handle.remove()
    assert len(reads) == 1
