"""Byte-level BPE: training, encoding, decoding, and the pairs of reference and fast versions."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, TokenizerError
from groundup.core.registry import pairs
from groundup.tokenizer import SPECIAL_TOKENS, ByteBPE, StreamDecoder, train_bpe
from groundup.tokenizer.bpe_fast import merge_tokens, train_merges
from groundup.tokenizer.bpe_reference import count_words, merge_tokens_reference, train_merges_reference
from groundup.tokenizer.patterns import PATTERNS

# Every code point but the surrogates, drawn evenly over the UTF-8 lengths, with what the patterns look at in between.
scalars = st.text(
    st.one_of(
        st.sampled_from(" \n\r\t'sStTlLvVeEdDmM019.,;_<|>ſ\u2028\u3000\x85\x1c"),
        st.characters(max_codepoint=0x7F),
        st.characters(min_codepoint=0x80, max_codepoint=0x7FF),
        st.characters(min_codepoint=0x800, max_codepoint=0xFFFF, exclude_categories=["Cs"]),
        st.characters(min_codepoint=0x10000),
    )
)


@pytest.mark.parametrize("name", [name for name in pairs() if name.startswith("tokenizer.")])
def test_each_pair_agrees_exactly(name: str) -> None:
    pair = pairs()[name]
    assert pair.tolerance == 0
    start = random.SystemRandom().randrange(10**9)
    for seed in [*range(40), *range(start, start + 80)]:
        arguments = pair.inputs(seed)
        assert pair.fast(*arguments) == pair.reference(*arguments), f"{name} differs for seed {seed}"


def test_both_pairs_are_registered() -> None:
    assert {"tokenizer.train", "tokenizer.encode"} <= set(pairs())


def test_inputs_of_a_pair_come_from_their_seed_alone() -> None:
    for pair in (pairs()["tokenizer.train"], pairs()["tokenizer.encode"]):
        assert pair.inputs(7) == pair.inputs(7)
        assert any(pair.inputs(7) != pair.inputs(seed) for seed in range(8, 12))


def test_encoding_inputs_reach_both_ways_of_the_fast_version() -> None:
    lengths = [len(pairs()["tokenizer.encode"].inputs(seed)[0]) for seed in range(40)]
    assert min(lengths) < 48 < max(lengths)


def test_a_tie_goes_to_the_greater_pair_of_byte_strings() -> None:
    # ab, cd and zb occur twice each; then (c, d) beats (a, b).
    words = {b"ab": 2, b"cd": 2, b"zb": 2}
    expected = [(b"z", b"b"), (b"c", b"d"), (b"a", b"b")]
    assert train_merges(words, 3) == train_merges_reference(words, 3) == expected
    # A longer string is greater than its own beginning: (ab, x) before (a, y).
    words = {b"ab": 9, b"abx": 2, b"ay": 2}
    expected = [(b"a", b"b"), (b"ab", b"x"), (b"a", b"y")]
    assert train_merges(words, 3) == train_merges_reference(words, 3) == expected


def test_overlapping_pairs_are_counted_and_merged_from_the_left() -> None:
    words = {b"aaaaa": 1, b"b": 5}
    assert train_merges(words, 2, 1) == train_merges_reference(words, 2, 1) == [(b"a", b"a"), (b"aa", b"aa")]


@given(
    st.dictionaries(st.binary(min_size=1, max_size=14), st.integers(1, 20), max_size=25),
    st.integers(0, 60),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=120)
def test_training_matches_the_reference_on_any_bytes(words: dict[bytes, int], num_merges: int, least: int) -> None:
    assert train_merges(words, num_merges, least) == train_merges_reference(words, num_merges, least)


def test_training_matches_the_reference_on_real_text(shakespeare: str) -> None:
    words = count_words([shakespeare[:40_000]], PATTERNS["llama3"])
    assert train_merges(words, 150) == train_merges_reference(words, 150)


def test_training_does_not_depend_on_the_order_of_the_texts(shakespeare: str) -> None:
    paragraphs = shakespeare[:60_000].split("\n\n")
    shuffled = random.Random(3).sample(paragraphs, len(paragraphs))
    assert train_bpe(paragraphs, 600).merges == train_bpe(shuffled, 600).merges


def test_encoding_matches_the_reference_whole(gpt2: ByteBPE, languages: dict[str, str]) -> None:
    for text in languages.values():
        piece = text[:300]
        ids = [gpt2.vocab[bytes([byte])] for byte in piece.encode()]
        assert merge_tokens(ids, gpt2._merge_table) == merge_tokens_reference(ids, gpt2._merge_table)


@given(scalars)
@settings(deadline=None, max_examples=300)
def test_a_text_comes_back(small_bpe: ByteBPE, text: str) -> None:
    ids = small_bpe.encode(text)
    assert small_bpe.decode(ids) == text
    assert b"".join(map(small_bpe.token_bytes, ids)) == text.encode()
    assert not set(ids) & set(small_bpe.special_tokens.values())


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\d", r"(a|b)+", r"x*", r"(?=a)"])
@given(text=scalars)
@settings(deadline=None, max_examples=60)
def test_a_text_comes_back_for_every_pattern(pattern: str, text: str) -> None:
    tokenizer = ByteBPE.from_merges([(b"a", b"b"), (b" ", b"a")], pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_single_code_point_comes_back(small_bpe: ByteBPE) -> None:
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert small_bpe.decode(small_bpe.encode(text)) == text


def test_surrogates() -> None:
    tokenizer = ByteBPE.from_merges([])
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\udfff\ud83d")) == "\ufffd\ufffd"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "\U0001f600"  # a pair is one character


def test_special_tokens_come_from_the_caller_only(small_bpe: ByteBPE) -> None:
    text = "<|im_end|>\n<|im_start|>x<|endoftext|><|pad|>"
    ordinary = small_bpe.encode(text)
    assert not set(ordinary) & set(small_bpe.special_tokens.values())
    assert small_bpe.decode(ordinary) == text
    special = small_bpe.encode(text, allow_special=True)
    names = [small_bpe.special_tokens[name] for name in ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|pad|>")]
    assert [id for id in special if id in names] == names
    assert small_bpe.decode(special) == text
    assert small_bpe.decode(special, skip_special=True) == "\nx"


def test_the_longest_special_token_is_matched() -> None:
    tokenizer = ByteBPE.from_merges([], special_tokens=["<a>", "<a><b>", "<b>"])
    assert tokenizer.encode("<a><b><b><a>", allow_special=True) == [257, 258, 256]


def test_ids_are_numbered_bytes_merges_special(small_bpe: ByteBPE) -> None:
    assert small_bpe.vocab_size == 420
    assert [small_bpe.token_bytes(id) for id in range(256)] == [bytes([byte]) for byte in range(256)]
    assert list(small_bpe.special_tokens.items()) == list(zip(SPECIAL_TOKENS, range(416, 420), strict=True))
    assert (small_bpe.bos_id, small_bpe.eos_id, small_bpe.pad_id) == (416, 416, 419)


@given(st.lists(st.integers(0, 419)))
@settings(deadline=None, max_examples=300)
def test_streaming_gives_the_text_and_no_half_characters(small_bpe: ByteBPE, ids: list[int]) -> None:
    for skip_special in (False, True):
        decoder = StreamDecoder(small_bpe, skip_special=skip_special)
        pieces = [decoder.push(id) for id in ids]
        assert "".join(pieces) + decoder.finish() == small_bpe.decode(ids, skip_special=skip_special)


@given(scalars)
@settings(deadline=None, max_examples=150)
def test_streaming_a_valid_text_never_shows_a_replacement(text: str) -> None:
    tokenizer = ByteBPE.from_merges([(b"\xf0", b"\x9f")])  # cuts every character beyond ASCII in pieces
    decoder = StreamDecoder(tokenizer)
    shown = ""
    for id in tokenizer.encode(text):
        shown += decoder.push(id)
        assert text.startswith(shown)
    assert shown + decoder.finish() == text


def test_streaming_can_begin_anew_after_finish(small_bpe: ByteBPE) -> None:
    decoder = StreamDecoder(small_bpe)
    assert decoder.push(0xF0) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    assert [decoder.push(byte) for byte in "é!".encode()] == ["", "é", "!"]


def test_long_pieces_take_no_quadratic_time(gpt2: ByteBPE) -> None:
    text = "=" * 60_000 + "a" * 60_000 + "\n" * 60_000
    assert gpt2.decode(gpt2.encode(text)) == text


def test_the_cache_changes_nothing_when_it_overflows(monkeypatch: pytest.MonkeyPatch, small_bpe: ByteBPE) -> None:
    monkeypatch.setattr("groundup.tokenizer.common._CACHE_ENTRIES", 3)
    fresh = ByteBPE.from_merges(small_bpe.merges)
    text = "one two three four one two three four five" * 5
    assert fresh.encode(text) == small_bpe.encode(text)
    assert len(fresh._cache) <= 3


def test_a_caller_cannot_spoil_the_cache(small_bpe: ByteBPE) -> None:
    first = small_bpe.encode("spoil")
    copy = list(first)
    first.append(0)
    assert small_bpe.encode("spoil") == copy


def test_batches(small_bpe: ByteBPE) -> None:
    assert small_bpe.encode_batch(["a b", "", "<|pad|>"]) == [
        small_bpe.encode("a b"),
        [],
        small_bpe.encode("<|pad|>"),
    ]


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    train_bpe(["abc" * 50 + " the cat the hat"] * 20, 270, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)


def test_little_text_gives_a_smaller_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "groundup.tokenizer"):
        tokenizer = train_bpe(["abab"], 300)
    assert tokenizer.merges == [(b"a", b"b")]
    assert tokenizer.vocab_size == 261
    assert "only 1 pairs" in caplog.text
    assert "261 tokens instead of 300" in caplog.text


def test_wrong_uses_of_training() -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size 259 is too small.*at least 260"):
        train_bpe(["abc"], 259)
    with pytest.raises(DataError, match="every text is empty"):
        train_bpe(["", ""], 300)
    with pytest.raises(TokenizerError, match=r"'lama3'.*did you mean 'llama3'"):
        train_bpe(["abc"], 300, pattern="lama3")
    with pytest.raises(TokenizerError, match=r"not a valid regular expression.*position"):
        train_bpe(["abc"], 300, pattern="(a")
    with pytest.raises(TokenizerError, match=r"'<x>' is given twice"):
        train_bpe(["abc"], 300, special_tokens=["<x>", "<x>"])
    with pytest.raises(TokenizerError, match="special token 0 is ''"):
        train_bpe(["abc"], 300, special_tokens=[""])


def test_wrong_uses_of_the_class() -> None:
    everything = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(TokenizerError, match=r"merge 0 .*names b'ab', which is no token"):
        ByteBPE(everything, [(b"a", b"b")])
    with pytest.raises(TokenizerError, match=r"merge 1 .*repeats merge 0"):
        ByteBPE({**everything, b"ab": 256}, [(b"a", b"b"), (b"a", b"b")])
    with pytest.raises(TokenizerError, match=r"2 of the 256 bytes have no token \(the first is 0x09\)"):
        ByteBPE({token: id for token, id in everything.items() if id not in (7, 9, 97)}, [])
    with pytest.raises(TokenizerError, match=r"share the id 65"):
        ByteBPE({**everything, b"zz": 65}, [])
    with pytest.raises(TokenizerError, match=r"'<s>' and the token b'A' share the id 65"):
        ByteBPE(everything, [], special_tokens={"<s>": 65})
    with pytest.raises(TokenizerError, match=r"'q' is an ordinary token too"):
        ByteBPE(everything, [], special_tokens={"q": 300})
    with pytest.raises(TokenizerError, match=r"eos is '<e>', which is no special token \(<s>\)"):
        ByteBPE(everything, [], special_tokens={"<s>": 256}, eos="<e>")
    with pytest.raises(TokenizerError, match=r"negative id -1"):
        ByteBPE({**everything, b"zz": -1}, [])


def test_rare_bytes_without_a_token_are_left_out() -> None:
    """As in `tokenizers`: what stood around them comes together (Falcon has no tokens for some control characters)."""
    everything = {bytes([byte]): byte for byte in range(256) if byte not in (0x03, 0xF5)}
    tokenizer = ByteBPE({**everything, b"ab": 256}, [(b"a", b"b")], pattern=())
    assert tokenizer.encode("a\x03b") == [256]
    assert tokenizer.decode(tokenizer.encode("x\x03y é😀")) == "xy é😀"


def test_tokens_that_no_text_becomes_are_decoded() -> None:
    everything = {bytes([byte]): byte for byte in range(256)}
    tokenizer = ByteBPE(everything, [], unreachable={"\u2194": 256})
    assert tokenizer.decode([97, 256]) == "a\u2194"
    assert 256 not in tokenizer.encode("\u2194")
    with pytest.raises(TokenizerError, match="share the id 97"):
        ByteBPE(everything, [], unreachable={"\u2194": 97})
    with pytest.raises(TokenizerError, match="is an ordinary token too"):
        ByteBPE(everything, [], unreachable={"\u2194": 256}, special_tokens={"\u2194": 257})


def test_a_special_token_that_files_cannot_tell_from_a_byte(tmp_path: Path) -> None:
    tokenizer = ByteBPE.from_merges([], special_tokens=["\u00a7"])
    assert tokenizer.encode("\u00a7", allow_special=True) == [256]
    with pytest.raises(TokenizerError, match=r"'§' is also how the token 167 \(b'\\xa7'\) is written in files"):
        tokenizer.save(tmp_path)


def test_what_stands_around_a_text() -> None:
    tokenizer = ByteBPE(
        {bytes([byte]): byte for byte in range(256)},
        [],
        special_tokens={"<s>": 256, "</s>": 257},
        bos="<s>",
        eos="</s>",
        prefix=["<s>"],
        suffix=["</s>"],
    )
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((256,), (257,))
    assert tokenizer.adds_bos
    assert tokenizer.adds_eos
    assert tokenizer.encode("abc") == [97, 98, 99]
    assert tokenizer.encode_with_special("abc") == [256, 97, 98, 99, 257]
    assert tokenizer.encode_with_special("abc", max_length=4) == [256, 97, 98, 257]
    assert tokenizer.encode_with_special("a<s>", allow_special=True, max_length=2) == [256, 257]
    with pytest.raises(TokenizerError, match=r"max_length 1 has no room .*: they are 2 \(<s>, </s>\)"):
        tokenizer.encode_with_special("abc", max_length=1)
    with pytest.raises(TokenizerError, match=r"a token put before every text is '<x>', which is no special token"):
        ByteBPE({bytes([byte]): byte for byte in range(256)}, [], prefix=["<x>"])
    plain = ByteBPE.from_merges([])
    assert not plain.adds_bos
    assert not plain.adds_eos
    assert plain.encode_with_special("abc") == plain.encode("abc")


# Recorded when the class was written first: token shards of that time carry them.
FINGERPRINTS = {
    "gpt2": "e4d668de1fdc82c3875e3f54b4b41f2387f537775d8f27ec4ed56d3d8cc959db",
    "gpt4": "18cb20ed154f4e98187c103aa7ec631d11de7d9f2ff3ab337883d6ef97b9fb3f",
    "llama3": "7f0ab816a67430a01d111c06405471a5318a271baa5fdb21f32129a73b3b90ee",
    r"\w+|\W": "60daf3785bace3f1c3a295e7a0ecb5a9df5d8fbf1a24ba6bb9b01070550fdd6e",
}


@pytest.mark.parametrize("pattern", FINGERPRINTS)
def test_fingerprints_stay_the_same_from_release_to_release(pattern: str) -> None:
    tokenizer = train_bpe(["The quick brown fox; it's 12345 é 日本 " * 3], 300, pattern=pattern)
    assert tokenizer.fingerprint() == FINGERPRINTS[pattern]


@pytest.mark.parametrize("id", [-1, 420, 10**9])
def test_unknown_ids_are_refused(small_bpe: ByteBPE, id: int) -> None:
    with pytest.raises(TokenizerError, match=rf"id {id} names no token: the vocabulary has 420 ids"):
        small_bpe.decode([1, id])
    with pytest.raises(TokenizerError, match=f"id {id}"):
        StreamDecoder(small_bpe).push(id)


def test_fingerprints_tell_tokenizers_apart(small_bpe: ByteBPE) -> None:
    same = ByteBPE.from_merges(small_bpe.merges)
    assert same.fingerprint() == small_bpe.fingerprint()
    others = [
        ByteBPE.from_merges(small_bpe.merges[:-1]),
        ByteBPE.from_merges(small_bpe.merges, pattern="gpt2"),
        ByteBPE.from_merges(small_bpe.merges, special_tokens=SPECIAL_TOKENS[:2]),
    ]
    assert len({small_bpe.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_every_character_of_the_byte_alphabet_and_no_other_is_read() -> None:
    from groundup.tokenizer.byte_level import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE, to_bytes, to_characters

    assert to_bytes(to_characters(bytes(range(256)))) == bytes(range(256))
    assert [to_bytes(BYTE_TO_CHARACTER[byte]) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    for character in map(chr, [*range(0x3000), 0xFFFF, 0x1F600]):
        if character not in CHARACTER_TO_BYTE:
            with pytest.raises(KeyError) as caught:
                to_bytes("Ġ" + character)
            assert caught.value.args == (character,)
