"""SentencePiece BPE: the same ids as in sentencepiece, tokenizers and transformers, and texts that come back."""

from __future__ import annotations

import io
import json
import random
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import TokenizerError
from groundup.tokenizer import SentencePieceBPE, StreamDecoder, load_tokenizer
from groundup.tokenizer.bpe_reference import merge_tokens_reference
from groundup.tokenizer.chat import ChatTemplate, encode_chat
from groundup.tokenizer.sentencepiece_bpe import BlankFirst, merges_from_scores

B = "\u2581"
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
ROLES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
BYTES = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
PIECES = [B, "a", "b", "c", f"{B}a", "ab", "bc", f"{B}ab", "abc", B * 2, B * 4, "\n", "<", "s", ">", "/", "é", "日"]
VOCAB = {**BYTES, **{piece: 259 + index for index, piece in enumerate(PIECES)}}
# Made in this order: `▁a` before `ab` before `bc`.
SCORES = {piece: -float(index) for index, piece in enumerate(PIECES)}
MERGES = merges_from_scores({piece: VOCAB[piece] for piece in PIECES}, SCORES)


def make(**options: Any) -> SentencePieceBPE:
    return SentencePieceBPE(VOCAB, MERGES, **{"special_tokens": SPECIAL, "roles": ROLES, **options})


def pieces(tokenizer: SentencePieceBPE, text: str, **options: Any) -> list[str]:
    names = {id: name for name, id in [*tokenizer.vocab.items(), *tokenizer.added.ids.items()]}
    return [names[id] for id in tokenizer.encode(text, **options)]


def in_tokenizers(ours: SentencePieceBPE) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))


# --- sentencepiece itself ---------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"byte_fallback": True},
    "unknown": {"byte_fallback": False},
    "gemma": {"byte_fallback": True, "add_dummy_prefix": False, "split_digits": True},
    "across words": {"byte_fallback": True, "split_by_whitespace": False},
    "defined": {"byte_fallback": True, "user_defined_symbols": ["<x>", "[INST]"], "allow_whitespace_only_pieces": True},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, corpus: dict[str, list[str]]) -> tuple[Any, SentencePieceBPE]:
    """A model trained by sentencepiece, and ours with its pieces and scores."""
    sentencepiece = pytest.importorskip("sentencepiece")
    options = KINDS[request.param]
    file = io.BytesIO()
    lines = "\n".join("".join(texts)[:40_000] for texts in corpus.values()).split("\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        model_type="bpe",
        vocab_size=1400,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    every = {theirs.id_to_piece(id): id for id in range(theirs.get_piece_size())}
    ordinary = {piece: id for piece, id in every.items() if piece not in SPECIAL}
    mergeable = {piece: id for piece, id in ordinary.items() if not theirs.is_byte(id)}
    defined = {name: every[name] for name in options.get("user_defined_symbols", [])}
    ours = SentencePieceBPE(
        ordinary,
        merges_from_scores(mergeable, {piece: theirs.get_score(id) for piece, id in mergeable.items()}),
        special_tokens=SPECIAL,
        added_tokens=defined,
        roles=ROLES,
        prefix=["<s>"],
        blank_first="prepend" if options.get("add_dummy_prefix", True) else "never",
        falls_back_to_bytes=options["byte_fallback"],
    )
    return theirs, ours


def test_sentencepiece_gives_the_same_ids(trained: tuple[Any, SentencePieceBPE], corpus: dict[str, list[str]]) -> None:
    theirs, ours = trained
    draw = random.Random(random.SystemRandom().random())
    runs = ["".join(draw.choices(" ab\ne=", k=draw.randint(1, 40))) for _ in range(200)]
    for text in [*runs, *(text for texts in corpus.values() for text in texts)]:
        if any(name in text for name in ours.added_tokens):
            continue  # after them ours puts a blank, as tokenizers and llama.cpp do, and sentencepiece does not
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == text or not ours.falls_back_to_bytes
        assert ours.encode_with_special(text) == [1, *ids]


def test_the_saved_file_gives_the_same_ids(
    trained: tuple[Any, SentencePieceBPE], corpus: dict[str, list[str]], tmp_path: Path
) -> None:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    _, ours = trained
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == ours.fingerprint()
    assert (again.prefix_ids, again.bos_id, again.eos_id) == ((1,), 1, 2)
    for texts in corpus.values():
        for text in texts[:40]:
            ids = ours.encode(text)
            assert again.encode(text) == ids
            assert theirs.encode(text, add_special_tokens=False).ids == ids
            assert theirs.encode(text).ids == ours.encode_with_special(text)
            assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto("a b\n  é<s>")["input_ids"] == ours.encode_with_special("a b\n  é<s>", allow_special=True)
    assert (auto.unk_token, auto.bos_token, auto.eos_token) == ("<unk>", "<s>", "</s>")


@pytest.mark.parametrize("trained", ["llama", "gemma", "across words"], indirect=True)
def test_the_llama_class_of_transformers(trained: tuple[Any, SentencePieceBPE], tmp_path: Path) -> None:
    """It builds another pre-tokenizer (Metaspace) from the same vocabulary."""
    transformers = pytest.importorskip("transformers")
    _, model = trained
    vocab = {**model.special_tokens, **model.vocab}
    for legacy in (True, False):
        theirs = transformers.LlamaTokenizer(vocab=vocab, merges=model.merges, legacy=legacy, add_bos_token=True)
        folder = tmp_path / str(legacy)
        theirs.save_pretrained(folder)
        ours = load_tokenizer(folder)
        assert ours.prefix_ids == (1,)
        for text in ["Hello world", " two  blanks", "", " ", "a<s>b", "<s> a </s>b", "é日\n\n x", "<s>"]:
            assert ours.encode_with_special(text, allow_special=True) == theirs(text)["input_ids"], text
            ids = theirs(text)["input_ids"]
            assert ours.decode(ids) == theirs.decode(ids)
            assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special_tokens=True)


# --- the rules --------------------------------------------------------------------------------------------------


def test_pairs_merge_by_score() -> None:
    assert MERGES[0] == (B, "a")
    tokenizer = make()
    assert pieces(tokenizer, "abc") == [f"{B}a", "bc"]
    assert pieces(tokenizer, "b ab") == [B, "b", f"{B}ab"]
    assert pieces(make(blank_first="never"), "abc") == ["abc"]
    assert pieces(tokenizer, "x\x00") == [B, "<0x78>", "<0x00>"]
    assert pieces(tokenizer, "") == []
    assert pieces(tokenizer, " " * 6) == [B * 4, B * 2, B]


@given(st.text(st.sampled_from(f"abc \n{B}é日x"), max_size=60))
@settings(deadline=None, max_examples=300)
def test_cutting_before_merging_changes_nothing(text: str) -> None:
    """Against merging the whole text at once."""
    tokenizer = make()
    ids: list[int] = []
    for run in (B + text.replace(" ", B)).split("x"):
        known = [VOCAB[character] for character in run]
        ids += [*merge_tokens_reference(known, tokenizer._merge_table), VOCAB["<0x78>"]]
    assert tokenizer.encode(text) == (ids[:-1] if text else [])


@given(st.text(), st.sampled_from(["prepend", "never"]))
@settings(deadline=None, max_examples=300)
def test_a_text_comes_back(text: str, blank_first: BlankFirst) -> None:
    text = text.encode("utf-8", "replace").decode()
    tokenizer = make(blank_first=blank_first)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.replace(B, " ")
    assert not set(ids) & set(SPECIAL.values())
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == tokenizer.decode(ids)


@given(st.lists(st.integers(0, max(VOCAB.values()))))
@settings(deadline=None, max_examples=300)
def test_streaming_equals_decoding(ids: list[int]) -> None:
    tokenizer = make()
    for skip_special in (False, True):
        decoder = StreamDecoder(tokenizer, skip_special=skip_special)
        shown = "".join(map(decoder.push, ids)) + decoder.finish()
        assert shown == tokenizer.decode(ids, skip_special=skip_special)


def test_an_answer_keeps_the_blank_before_its_first_word() -> None:
    tokenizer = make()
    prompt, answer = tokenizer.encode("b"), tokenizer.encode("a")
    assert tokenizer.decode([*prompt, *answer]) == "b a"
    assert tokenizer.decode(answer) == "a"
    decoder = StreamDecoder(tokenizer, continues=True)
    assert "".join(map(decoder.push, answer)) + decoder.finish() == " a"
    decoder = StreamDecoder(tokenizer)
    for _ in range(2):  # and anew after the end
        assert "".join(map(decoder.push, answer)) + decoder.finish() == "a"


def test_where_a_blank_is_put_first() -> None:
    """As `tokenizers` does it, for texts that begin with blanks and after special tokens."""
    texts = ["a", " a", "  a", "<s>a", "<s> a", "b<s>a", "b <s>  a", "<s>", " ", f"{B}a", "<s></s>a", "\na", "a<s>\na"]
    schemes: tuple[BlankFirst, ...] = ("prepend", "always", "first", "never")
    for scheme in schemes:
        for splits in (False, True):
            if scheme == "prepend" and splits:
                continue
            ours = make(blank_first=scheme, splits_at_blanks=splits)
            theirs = in_tokenizers(ours)
            for text in texts:
                ids = ours.encode(text, allow_special=True)
                assert ids == theirs.encode(text).ids, (scheme, splits, text)
                assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert pieces(make(), "<s>a", allow_special=True) == ["<s>", f"{B}a"]
    assert pieces(make(blank_first="first"), "<s>a", allow_special=True) == ["<s>", "a"]
    assert pieces(make(blank_first="first"), " a") == pieces(make(blank_first="first"), "a") == [f"{B}a"]
    assert pieces(make(blank_first="always", splits_at_blanks=True), "   a") == [B, B, f"{B}a"]


def test_a_text_that_goes_on_gets_no_blank() -> None:
    tokenizer = make()
    assert pieces(tokenizer, "a", after=VOCAB["b"]) == ["a"]
    assert pieces(tokenizer, "a", after=SPECIAL["<s>"]) == [f"{B}a"]
    assert pieces(make(blank_first="first"), "a", after=SPECIAL["<s>"]) == ["a"]


def test_unknown_characters() -> None:
    without = {piece: id for piece, id in VOCAB.items() if piece not in BYTES}
    ours = SentencePieceBPE(without, MERGES, special_tokens=SPECIAL, roles=ROLES, falls_back_to_bytes=False)
    assert pieces(ours, "axyzb x") == [f"{B}a", "<unk>", "b", B, "<unk>"]
    theirs = in_tokenizers(ours)
    for text in ["axyzb x", "xy", "x x", "日語", ""]:
        assert ours.encode(text) == theirs.encode(text).ids
    # Some bytes only: a character needs all of its own.
    some = {piece: id for piece, id in VOCAB.items() if piece not in ("<0xC3>", "<0xA4>")}
    ours = SentencePieceBPE(some, MERGES, special_tokens=SPECIAL, roles=ROLES)
    assert pieces(ours, "ä\u0144ä") == [B, "<unk>", "<0xC5>", "<0x84>", "<unk>"]


def test_what_users_write_is_no_byte_and_no_special_token() -> None:
    tokenizer = make()
    for text in ("<0x61>", "<s>", "</s>", "<unk>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not set(tokenizer.encode(text)) & {0, 1, 2, BYTES["<0x61>"]}


def test_added_tokens_can_be_ordinary_ones_too() -> None:
    """Gemma lists its runs of blanks so; texts reach them by merging, and literally."""
    ours = make(added_tokens={B * 2: VOCAB[B * 2], "abc": VOCAB["abc"]})
    assert pieces(ours, "  b") == [B * 2, B, "b"]
    assert pieces(ours, f"x{B * 2}abc") == [B, "<0x78>", B * 2, "abc"]
    theirs = in_tokenizers(ours)
    for text in ("  b", f"x{B * 2}abc", "abcabc a", "ab c"):
        assert ours.encode(text) == theirs.encode(text).ids


def test_parts_of_a_token_that_are_no_tokens_do_not_matter() -> None:
    ours = SentencePieceBPE({**BYTES, B: 300, "xy": 301, "xyz": 302, "z": 303}, [("xy", "z")], special_tokens=SPECIAL)
    assert pieces(ours, "xyz") == [B, "<0x78>", "<0x79>", "z"]
    assert ours.encode("xyz") == in_tokenizers(ours).encode("xyz").ids


def test_chats_as_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    messages = [
        {"role": role, "content": text} for role, text in [("user", "a  b"), ("assistant", "abc"), ("user", "é")]
    ]
    for scheme in ("prepend", "first", "never"):
        ours = make(blank_first=scheme)
        ours.save(tmp_path, chat_template=source)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        template = ChatTemplate(source, variables={"bos_token": "<s>", "eos_token": "</s>"})
        expected = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert encode_chat(ours, template, messages).ids == expected, scheme
        assert encode_chat(ours, template, [{"role": "user", "content": "</s>"}]).ids.count(2) == 0


def test_a_block_border_puts_no_blank_into_the_text() -> None:
    source = "{% for m in messages %}a{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    template = ChatTemplate(source)
    encoded = encode_chat(make(), template, [{"role": "assistant", "content": "b"}])
    assert make().decode(encoded.ids) == "ab"
    assert encoded.trained == [False, True]


def test_chats_with_tokens_that_strip(tmp_path: Path) -> None:
    """Phi-3: the line end after `<|user|>` belongs to the token."""
    transformers = pytest.importorskip("transformers")
    ours = make(
        special_tokens={**SPECIAL, "<|user|>": 400, "<|end|>": 401}, strips={"<|user|>": "right", "<|end|>": "right"}
    )
    source = "{% for m in messages %}<|user|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    ours.save(tmp_path, chat_template=source)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}]
    expected = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert encode_chat(ours, ChatTemplate(source), messages).ids == expected
    assert load_tokenizer(tmp_path).fingerprint() == ours.fingerprint()


# --- files ------------------------------------------------------------------------------------------------------


def write(folder: Path, data: Any, config: Any = None) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    return folder


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": B}


def test_the_forms_of_the_hub(tmp_path: Path) -> None:
    """Metaspace with and without its newer fields, as normalizer and as pre-tokenizer; Gemma's split; old merges."""
    prepend: dict[str, Any] = {"type": "Prepend", "prepend": B}
    forms: list[tuple[Any, Any, BlankFirst, bool]] = [
        ({"type": "Sequence", "normalizers": [prepend, REPLACE]}, None, "prepend", False),
        (REPLACE, None, "never", False),
        (REPLACE, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, "never", False),
        (None, {"type": "Metaspace", "replacement": B, "add_prefix_space": True}, "always", True),
        (None, {"type": "Metaspace", "replacement": B, "prepend_scheme": "never", "add_prefix_space": False}, "never", True),
        (None, {"type": "Metaspace", "replacement": B, "prepend_scheme": "first", "split": False}, "first", False),
    ]  # fmt: skip
    for normalizer, pre, blank_first, splits in forms:
        data = make(blank_first=blank_first, splits_at_blanks=splits).to_json()
        data |= {"normalizer": normalizer, "pre_tokenizer": pre}
        data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
        ours = load_tokenizer(write(tmp_path, data))
        assert isinstance(ours, SentencePieceBPE)
        assert (ours.blank_first, ours.splits_at_blanks) == (blank_first, splits)
        theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for text in ("a b", " a", "a  bc\n"):
            assert ours.encode(text) == theirs.encode(text).ids


def test_what_stands_around_a_text(tmp_path: Path) -> None:
    """tokenizer.json decides, as in transformers; where it says nothing, the flags of the config."""
    transformers = pytest.importorskip("transformers")
    roles = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}}
    with_bos = make(prefix=["<s>"], roles={"unk": "<unk>"}).to_json()
    for flags in ({}, {"add_bos_token": False}, {"add_eos_token": True}):
        write(tmp_path, with_bos, {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **flags})
        ours = load_tokenizer(tmp_path)
        assert ours.encode_with_special("a") == [1, VOCAB[f"{B}a"]]
        assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == ours.encode_with_special("a")
    without = make(roles={"unk": "<unk>"}).to_json()
    for flags, expected in [
        ({}, (False, False)),
        ({"add_bos_token": False, "add_eos_token": None}, (False, False)),
        ({"add_bos_token": True}, (True, False)),
        ({"add_bos_token": True, "add_eos_token": True}, (True, True)),
    ]:
        ours = load_tokenizer(write(tmp_path, without, {**roles, **flags}))
        assert (ours.adds_bos, ours.adds_eos) == expected
        assert (ours.prefix_ids, ours.suffix_ids) == ((1,) * expected[0], (2,) * expected[1])
    write(tmp_path, without, {**roles, "add_bos_token": "yes"})
    with pytest.raises(TokenizerError, match=r"add_bos_token is 'yes'; it must be true or false"):
        load_tokenizer(tmp_path)


def test_other_post_processors(tmp_path: Path) -> None:
    data = make().to_json()
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    bert = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}
    template = make(prefix=["<s>", "</s>"]).to_json()["post_processor"]
    for post_processor, around in [
        (None, ((), ())),
        (byte_level, ((), ())),
        (bert, ((1,), (2,))),
        ({**byte_level, **bert, "type": "RobertaProcessing"}, ((1,), (2,))),
        (template, ((1, 2), ())),
        ({"type": "Sequence", "processors": [byte_level, template]}, ((1, 2), ())),
    ]:
        ours = load_tokenizer(write(tmp_path, {**data, "post_processor": post_processor}))
        assert (ours.prefix_ids, ours.suffix_ids) == around
        theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert theirs.encode("a").ids == ours.encode_with_special("a")
    write(tmp_path, {**data, "post_processor": {"type": "Sequence", "processors": [template, bert]}})
    with pytest.raises(TokenizerError, match=r"the post-processor 'Sequence' cannot be read"):
        load_tokenizer(tmp_path)


def test_a_folder_with_the_model_file_only(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(TokenizerError, match=r"only tokenizer\.model: write it with transformers, AutoTokenizer"):
        load_tokenizer(tmp_path)


METASPACE = {"type": "Metaspace", "replacement": B, "prepend_scheme": "first", "split": False}
WRONG = [
    (["model", "merges"], None, r"merges is of type NoneType, not a list"),
    (["model", "merges", 0], ["a"], r"merge 0 is \['a'\], not a pair"),
    (["model", "merges", 0], ["a", "zz"], r"merge 0 \('a' \+ 'zz'\) names 'zz', which is no token"),
    (["model", "merges", 1], MERGES[0], r"repeats merge 0"),
    (["model", "vocab"], [], r"the vocabulary is empty"),
    (["model", "vocab", "a"], 258, r"the tokens '<0xFF>' and 'a' share the id 258"),
    (["model", "vocab", "a"], 1.5, r"'a' has the id 1\.5"),
    (["model", "vocab", "a\ud800"], 900, r"'a\\ud800' \(id 900\) holds a surrogate"),
    (["model", "vocab", "<s>"], 900, r"'<s>' has the id 900 in the vocabulary and 1 beside it"),
    (["model", "unk_token"], "<u>", r"unk is '<u>', which is no special token \(<unk>, <s>, </s>\)"),
    (["model", "unk_token"], 5, r"unk_token is 5"),
    (["model", "ignore_merges"], True, r"ignore_merges = True, which cannot be read"),
    (["model", "byte_fallback"], 0, r"the decoder|'a' has|unknown"),
    (["decoder"], None, r"the decoder \[\] cannot be read: SentencePiece BPE has Replace, ByteFallback, Fuse, Strip"),
    (["decoder", "decoders", 0, "content"], "x", r"the decoder \['Replace', 'ByteFallback', 'Fuse', 'Strip'\] cannot"),
    (["decoder", "decoders", 3, "start"], 2, r"the decoder .* cannot be read"),
    (["normalizer"], None, r"nothing turns blanks into '▁': this is no SentencePiece tokenizer"),
    (["normalizer"], {"type": "NFKC"}, r"the normalizer \['NFKC'\] cannot be read: Prepend and Replace can"),
    (["normalizer", "normalizers", 0, "prepend"], "x", r"the normalizer \['Prepend', 'Replace'\] cannot be read"),
    (["pre_tokenizer"], METASPACE, r"the pre-tokenizer 'Metaspace' is not one that can be read"),
    (["pre_tokenizer"], {"type": "Whitespace"}, r"the pre-tokenizer 'Whitespace' is not"),
    (["added_tokens", 0, "id"], "x", r"'<unk>' has the id 'x'"),
    (["post_processor"], {"type": "TemplateProcessing", "single": [{}]}, r"the post-processor 'TemplateProcessing'"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_each_fault_is_named(tmp_path: Path, path: list[Any], value: Any, message: str) -> None:
    data = json.loads(json.dumps(make(prefix=["<s>"]).to_json()))
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if path == ["model", "byte_fallback"]:
        data["model"]["fuse_unk"] = False
        message = r"fuse_unk is off"
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(write(tmp_path, data))
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))


def test_what_the_class_refuses() -> None:
    with pytest.raises(TokenizerError, match=r"no unknown token, and no token <0x61> for that byte"):
        SentencePieceBPE({token: id for token, id in BYTES.items() if token != "<0x61>"}, [])
    with pytest.raises(TokenizerError, match=r"no unknown token, and no token <0x00>"):
        SentencePieceBPE({"a": 0}, [], falls_back_to_bytes=False)
    with pytest.raises(TokenizerError, match=r"'a' has the negative id -1"):
        SentencePieceBPE({**BYTES, "a": -1}, [])
    with pytest.raises(TokenizerError, match=r"'<s>' is an ordinary token too"):
        SentencePieceBPE({**BYTES, "<s>": 1}, [], special_tokens={"<s>": 1})
    with pytest.raises(TokenizerError, match=r"splits_at_blanks goes with"):
        make(splits_at_blanks=True)


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    draw = random.Random(11)
    odd = [
        None,
        True,
        -1,
        0,
        2**70,
        1.5,
        "",
        "x",
        B,
        "\ud800",
        [],
        {},
        [[]],
        ["a", "b"],
        {"type": "Metaspace"},
        METASPACE,
    ]
    whole = json.dumps(make(prefix=["<s>"]).to_json())
    refused = 0
    for _ in range(400):
        data = json.loads(whole)
        node = data
        while True:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
                node = node[key]
                continue
            node[key] = draw.choice(odd)
            break
        try:
            loaded = load_tokenizer(write(tmp_path, data))
        except TokenizerError as error:
            refused += 1
            assert "tokenizer" in str(error)
        else:
            loaded.decode(loaded.encode("a b <s>", allow_special=True))
            loaded.save(tmp_path / "again")
    assert refused > 100


def test_merges_from_scores_are_every_way_to_make_a_token() -> None:
    vocab = {"a": 0, "aa": 1, "aaa": 2, "b": 3, "ab": 4}
    scores = {"a": -9.0, "aa": -2.0, "aaa": -3.0, "b": -9.0, "ab": -1.0}
    assert merges_from_scores(vocab, scores) == [("a", "b"), ("a", "a"), ("a", "aa"), ("aa", "a")]
    for order in permutations(vocab):
        assert merges_from_scores({token: vocab[token] for token in order}, scores) == merges_from_scores(vocab, scores)
