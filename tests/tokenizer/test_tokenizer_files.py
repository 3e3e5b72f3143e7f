"""Loading: our own files, those of the Hugging Face hub, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import ByteBPE, CharTokenizer, load_tokenizer
from groundup.tokenizer.patterns import PATTERNS

tokenizers = pytest.importorskip("tokenizers")


def write(folder: Path, data: Any, config: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_loading_gives_the_same_tokenizer(small_bpe: ByteBPE, tmp_path: Path) -> None:
    for pattern in [*PATTERNS, r"\w+|\W"]:
        ours = ByteBPE.from_merges(small_bpe.merges, pattern=pattern)
        ours.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert isinstance(again, ByteBPE)
        assert again.pattern == ours.pattern
        assert again.fingerprint() == ours.fingerprint()
        assert again.special_tokens == ours.special_tokens
        assert (again.bos_id, again.eos_id, again.pad_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
        assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint() == ours.fingerprint()


def test_the_files_name_what_transformers_needs(small_bpe: ByteBPE, tmp_path: Path) -> None:
    small_bpe.save(tmp_path, chat_template="{{ messages }}", max_length=512)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8")) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": "{{ messages }}",
    }
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    split = json.loads(text)["pre_tokenizer"]["pretokenizers"][0]
    assert split["pattern"]["Regex"] == PATTERNS["llama3"].portable[0]
    assert "++" not in PATTERNS["llama3"].portable[0]
    assert "?+" not in PATTERNS["llama3"].portable[0]


# --- files of the hub -------------------------------------------------------------------------------------------


def hub_tokenizer(small_bpe: ByteBPE, **model: Any) -> Any:
    """A tokenizer of the `tokenizers` library with our merges, to be given other parts."""
    data = small_bpe.to_json()["model"]
    merges = [tuple(merge) for merge in data["merges"]]
    return tokenizers.Tokenizer(tokenizers.models.BPE(data["vocab"], merges, **model))


TEXTS = ["Hello  the dog's\n\n x 1234 ", "<|im_end|><|x|> é e\u0301 日本語 \u212b 👍🏽", " the", "<think>the</think> x"]


def test_gpt2_like_files(small_bpe: ByteBPE, tmp_path: Path) -> None:
    theirs = hub_tokenizer(small_bpe)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, ByteBPE)
    assert ours.pattern.name == "gpt2"
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids


def test_llama3_like_files(small_bpe: ByteBPE, tmp_path: Path) -> None:
    """Split by a pattern, whole words first, and a beginning-of-text token put before every text."""
    theirs = hub_tokenizer(small_bpe, ignore_merges=True)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS["llama3"].portable[0]), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    begin = theirs.token_to_id("<|begin_of_text|>")
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (begin, begin + 1, None)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    text = "<|begin_of_text|>the<|eot_id|>"
    assert ours.encode(text, allow_special=True) == theirs.encode(text, add_special_tokens=False).ids
    # What stands around a text is kept for transformers, although our encode does not add it.
    ours.save(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert again.encode("the").ids == theirs.encode("the").ids == [begin, *ours.encode("the")]
    assert again.encode("the").ids == ours.encode_with_special("the")
    assert ours.adds_bos
    assert not ours.adds_eos


def test_whole_words_first(tmp_path: Path) -> None:
    """A token that no merge reaches is found whole where the file says so, and only there."""
    for ignores in (True, False):
        ours = ByteBPE({**{bytes([byte]): byte for byte in range(256)}, b"xyz": 256}, [], ignores_merges=ignores)
        ours.save(tmp_path)
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert ours.encode("xyz") == theirs.encode("xyz").ids == ([256] if ignores else [120, 121, 122])
        assert load_tokenizer(tmp_path).encode("xyz") == ours.encode("xyz")


def test_qwen_like_files(small_bpe: ByteBPE, tmp_path: Path) -> None:
    """NFC first, and added tokens that are matched in every text although they are not special."""
    theirs = hub_tokenizer(small_bpe)
    theirs.normalizer = tokenizers.normalizers.NFC()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS["llama3"].portable[0]), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(["<|x|>"])
    theirs.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text, allow_special=True) == theirs.encode(text).ids
    assert ours.decode(ours.encode("e\u0301 \u212b")) == "é Å"
    assert "<think>" not in ours.special_tokens
    ids = ours.encode("<think>a<|x|>")
    assert ids[0] == theirs.token_to_id("<think>")
    assert theirs.token_to_id("<|x|>") not in ids
    assert ours.decode(ours.encode("<think>a<|x|>", allow_special=True), skip_special=True) == "<think>a"
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == ours.fingerprint()


BYTE_LEVEL = tokenizers.pre_tokenizers.ByteLevel
SPLIT = tokenizers.pre_tokenizers.Split


def digits_then_words() -> list[Any]:
    """SmolLM2, StarCoder, Command R."""
    return [tokenizers.pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL(add_prefix_space=False)]


def several_splits() -> list[Any]:
    """DeepSeek Coder."""
    sources = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]
    return [
        *(SPLIT(tokenizers.Regex(source), "isolated") for source in sources),
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        BYTE_LEVEL(add_prefix_space=False, use_regex=False),
    ]


def the_rest_removed() -> list[Any]:
    """Phi-4 and OLMo 2: what the expression leaves is dropped, and it leaves nothing."""
    pattern = tokenizers.Regex(PATTERNS["gpt4"].portable[0])
    return [SPLIT(pattern, "removed", invert=True), BYTE_LEVEL(add_prefix_space=False, use_regex=False)]


def punctuation_and_texts() -> list[Any]:
    return [
        tokenizers.pre_tokenizers.Punctuation("contiguous"),
        SPLIT("the", "isolated"),
        tokenizers.pre_tokenizers.Digits(individual_digits=False),
        BYTE_LEVEL(add_prefix_space=False),
    ]


def nothing_cut() -> list[Any]:
    return [BYTE_LEVEL(add_prefix_space=False, use_regex=False)]


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (digits_then_words, "smollm"),
        (several_splits, "deepseek-coder"),
        (the_rest_removed, "gpt4"),
        (punctuation_and_texts, "custom"),
        (nothing_cut, "custom"),
    ],
)
def test_other_ways_to_cut(
    small_bpe: ByteBPE, tmp_path: Path, languages: dict[str, str], steps: Callable[[], list[Any]], name: str
) -> None:
    theirs = hub_tokenizer(small_bpe)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps())
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, ByteBPE)
    assert ours.pattern.name == name
    for text in [*TEXTS, "a...b!? {1,22} - 3.14\r\nthe\nthen", *(text[:800] for text in languages.values())]:
        assert ours.encode(text) == theirs.encode(text).ids
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == ours.fingerprint()
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert again.encode(TEXTS[0]).ids == ours.encode(TEXTS[0])


def test_only_what_leaves_nothing_can_be_inverted(small_bpe: ByteBPE, tmp_path: Path) -> None:
    theirs = hub_tokenizer(small_bpe)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [SPLIT(tokenizers.Regex(r"\w+"), "removed", invert=True), *nothing_cut()]
    )
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"\['Split', 'ByteLevel'\] is not one that can be read"):
        load_tokenizer(tmp_path)


def test_tokens_outside_of_the_alphabet_are_kept(small_bpe: ByteBPE, tmp_path: Path) -> None:
    """Command R has emoji in its vocabulary that no text becomes."""
    data = small_bpe.to_json()
    data["model"]["vocab"]["日"] = 900
    write(tmp_path, data)
    ours = load_tokenizer(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.encode("日") == theirs.encode("日").ids
    assert 900 not in ours.encode("日")
    assert ours.decode([900]) == theirs.decode([900]) == "日"
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == ours.fingerprint()


def test_the_map_of_special_tokens_is_read_where_the_config_is_silent(small_bpe: ByteBPE, tmp_path: Path) -> None:
    small_bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<|im_start|>", "eos_token": "<|pad|>"}')
    ours = load_tokenizer(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (417, 418, None)
    (tmp_path / "special_tokens_map.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"special_tokens_map\.json must be a JSON object, not of type list"):
        load_tokenizer(tmp_path)


def test_special_tokens_at_the_front_keep_their_ids(tmp_path: Path) -> None:
    vocab = {bytes([byte]): byte + 2 for byte in range(256)}
    ours = ByteBPE(vocab, [], special_tokens={"<s>": 0, "</s>": 1}, bos="<s>", eos="</s>")
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<s>hi</s>"
    assert theirs.encode(text).ids == ours.encode(text, allow_special=True) == [0, 106, 107, 1]
    assert load_tokenizer(tmp_path).fingerprint() == ours.fingerprint()


def test_old_gpt2_folders_know_their_end_by_the_class(tmp_path: Path, gpt2: ByteBPE) -> None:
    gpt2.save(tmp_path)
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(tmp_path).eos_id == 50256
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).eos_id is None


def test_merges_written_as_strings(small_bpe: ByteBPE, tmp_path: Path) -> None:
    data = small_bpe.to_json()
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    del data["model"]["type"]  # as in files of 2020
    write(tmp_path, data)
    assert load_tokenizer(tmp_path).encode(TEXTS[0]) == small_bpe.encode(TEXTS[0])


# --- files that are wrong ----------------------------------------------------------------------------------------


def edit(path: str, value: Any) -> Callable[[Any], None]:
    """Return a function that sets `a.b.0` in a JSON value; `...` deletes it."""

    def apply(data: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key) if isinstance(data, list) else key]
        key = int(last) if isinstance(data, list) else last
        if value is ...:
            del data[key]
        elif isinstance(data, list) and key == len(data):
            data.append(value)
        else:
            data[key] = value

    return apply


WRONG = [
    ("model", ..., r"must be a JSON object with a 'model'"),
    ("model", [], r"must be a JSON object with a 'model'"),
    ("model.type", "Trigram", r"the model is of type 'Trigram'; BPE, WordPiece, Unigram and WordLevel can be read"),
    ("model.type", "WordPiece", r"WordPiece is read with BertNormalizer and BertPreTokenizer, not with of type None"),
    ("model.type", ["BPE"], r"type \['BPE'\]"),
    ("model.byte_fallback", True, r"byte_fallback = True"),
    ("model.unk_token", "<unk>", r"unk_token = '<unk>'"),
    ("model.end_of_word_suffix", "</w>", r"end_of_word_suffix = '</w>'"),
    ("model.vocab", ..., r"the vocabulary is of type NoneType"),
    ("model.vocab", {}, r"the vocabulary is empty"),
    ("model.vocab", ["a"], r"the vocabulary is of type list"),
    ("model.vocab.a", "97", r"'a' has the id '97': it must be from 0 to 16777215"),
    ("model.vocab.a", -5, r"'a' has the id -5"),
    ("model.vocab.a", True, r"'a' has the id True"),
    ("model.vocab.a", 97.0, r"'a' has the id 97\.0"),
    ("model.vocab.a", 10**15, r"'a' has the id 1000000000000000"),
    ("model.vocab.a", 98, r"the tokens b'[ab]' and b'[ab]' share the id 98"),
    ("model.vocab.a", ..., r"1 of the 256 bytes have no token \(the first is 0x61\)"),
    ("model.vocab.", 900, r"the token '' \(id 900\) is empty or holds a surrogate"),
    ("model.vocab.\ud800", 900, r"the token '\\ud800' \(id 900\) is empty or holds a surrogate"),
    ("model.merges", ..., r"merges is of type NoneType, not a list"),
    ("model.merges", {"a": "b"}, r"merges is of type dict"),
    ("model.merges.0", "ab", r"merge 0 is 'ab', not a pair"),
    ("model.merges.0", "a b c", r"merge 0 is 'a b c', not a pair"),
    ("model.merges.0", ["a"], r"merge 0 is \['a'\], not a pair"),
    ("model.merges.0", ["a", 5], r"merge 0 is \['a', 5\]"),
    ("model.merges.0", None, r"merge 0 is None"),
    ("model.merges.0", ["a", ""], r"merge 0 is \['a', ''\]"),
    ("model.merges.0", ["a", "日"], r"merge 0 .* holds '日', which stands for no byte"),
    ("model.merges.0", ["Q", "X"], r"merge 0 \(b'Q' \+ b'X'\) names b'QX', which is no token"),
    ("added_tokens", {"a": 1}, r"added_tokens is of type dict, not a list"),
    ("added_tokens.0", "x", r"added token 0 is 'x': it must have a text"),
    ("added_tokens.0.content", "", r"it must have a text"),
    ("added_tokens.0.content", 7, r"it must have a text"),
    ("added_tokens.0.id", ..., r"'<\|endoftext\|>' has the id None"),
    ("added_tokens.0.id", 97, r"'<\|endoftext\|>' has the id 416 in the vocabulary and 97 beside it"),
    ("added_tokens.0.content", "<new>", r"'<new>' and the token b'<\|endoftext\|>' share the id 416"),
    ("added_tokens.1.content", "<|endoftext|>", r"'<\|endoftext\|>' is given twice"),
    ("added_tokens.0.single_word", True, r"'<\|endoftext\|>' has single_word, which cannot be read"),
    ("decoder", None, r"the decoder is of type NoneType, not ByteLevel"),
    ("decoder.type", "WordPiece", r"the decoder is 'WordPiece', not ByteLevel"),
    ("pre_tokenizer", None, r"the pre-tokenizer \[\] is not one that can be read"),
    ("pre_tokenizer.pretokenizers", [], r"the pre-tokenizer \[\] is not"),
    ("pre_tokenizer.pretokenizers", 5, r"the pre-tokenizer \[\] is not"),
    ("pre_tokenizer", {"type": "Whitespace"}, r"the pre-tokenizer \['Whitespace'\] is not"),
    ("pre_tokenizer.pretokenizers.0", {"type": "Whitespace"}, r"\['Whitespace', 'ByteLevel'\]"),
    ("pre_tokenizer.pretokenizers.0", {"type": "Punctuation"}, r"\['Punctuation', 'ByteLevel'\]"),
    ("pre_tokenizer.pretokenizers.0.behavior", "Removed", r"\['Split', 'ByteLevel'\] is not one that can be read"),
    ("pre_tokenizer.pretokenizers.0.invert", True, r"\['Split', 'ByteLevel'\] is not"),
    ("pre_tokenizer.pretokenizers.0.pattern", {"String": 5}, r"\['Split', 'ByteLevel'\] is not"),
    ("pre_tokenizer.pretokenizers.0.pattern", {"Regex": "a", "String": "a"}, r"\['Split', 'ByteLevel'\] is not"),
    ("pre_tokenizer.pretokenizers.1.type", "Digits", r"\['Split', 'Digits'\] is not .*: ByteLevel last"),
    ("pre_tokenizer.pretokenizers.0.pattern.Regex", "(a", r"'\(a' is not a valid regular expression"),
    ("pre_tokenizer.pretokenizers.1.add_prefix_space", True, r"add_prefix_space puts a blank before every text"),
    ("normalizer", {"type": "Lowercase"}, r"the normalizer 'Lowercase' cannot be read; none and NFC can"),
    ("normalizer", "NFC", r"the normalizer of type str cannot be read"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), WRONG, ids=[f"{path}={value!r}"[:50] for path, value, _ in WRONG]
)
def test_each_fault_is_named(small_bpe: ByteBPE, tmp_path: Path, path: str, value: Any, message: str) -> None:
    data = copy.deepcopy(small_bpe.to_json())
    edit(path, value)(data)
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))


def test_repeated_merges_are_refused(small_bpe: ByteBPE, tmp_path: Path) -> None:
    data = small_bpe.to_json()
    data["model"]["merges"].append(data["model"]["merges"][3])
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match=r"merge 160 .* repeats merge 3"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], r"tokenizer_config\.json must be a JSON object, not of type list"),
        ({"eos_token": 5}, r"eos_token is 5; it must be the text of a special token"),
        ({"eos_token": {"content": ["x"]}}, r"eos_token is \['x'\]"),
        ({"bos_token": "<nope>"}, r"names '<nope>', which is not among the added tokens"),
    ],
)
def test_faults_of_the_config_are_named(small_bpe: ByteBPE, tmp_path: Path, config: Any, message: str) -> None:
    write(tmp_path, small_bpe.to_json(), config)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere.tokenizer\.json does not exist: .* and .*nowhere is not there"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist: a tokenizer is a folder with"):
        load_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    for content, message in [
        (b"", "cannot be read: Expecting value: line 1"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read: 'utf-8' codec can't decode"),
        (b"[" * 200_000, "cannot be read"),
        (b"null", "must be a JSON object with a 'model'"),
        (b"[1, 2]", "must be a JSON object with a 'model'"),
    ]:
        file.write_bytes(content)
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(small_bpe: ByteBPE, tmp_path: Path) -> None:
    small_bpe.save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    draw = random.Random(9)
    for _ in range(60):
        (tmp_path / "tokenizer.json").write_bytes(whole[: draw.randrange(len(whole) - 3)])
        with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_random_damage_never_escapes_as_another_error(small_bpe: ByteBPE, tmp_path: Path, kind: str) -> None:
    """Replace random parts by odd values: the file loads and works, or a TokenizerError says why not."""
    tokenizer = small_bpe if kind == "bpe" else CharTokenizer.train(["hello"])
    draw = random.Random(11)
    odd = [None, True, -1, 0, 2**70, 1.5, "", "x", "Ġ", "\ud800", [], {}, [[]], ["a", "b"], {"type": "ByteLevel"}]
    whole = json.dumps(tokenizer.to_json())
    refused = 0
    for _ in range(400):
        data = json.loads(whole)
        for _ in range(draw.choice([1, 1, 2])):
            node = data
            while True:
                key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
                if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
                    node = node[key]
                    continue
                node[key] = draw.choice(odd)
                break
        write(tmp_path, data, {"eos_token": draw.choice(["<|endoftext|>", None])} if kind == "bpe" else None)
        try:
            loaded = load_tokenizer(tmp_path)
        except TokenizerError as error:
            refused += 1
            assert "tokenizer" in str(error)
        else:
            loaded.decode(loaded.encode("hello <|im_end|>", allow_special=True))
    assert refused > 100


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pre_tokenizer", {"type": "Whitespace"}, r"the decoder 'Fuse' cannot be read: WordLevel has none"),
        ("model.vocab", None, r"the vocabulary is of type NoneType"),
        ("model.vocab.h", -1, r"'h' has the id -1"),
        ("model.vocab.h", 40, r"the ids are not 0, 1, 2, \.\.\."),
        ("model.vocab.hh", 40, r"'hh' is not one character"),
        ("model.unk_token", "h", r"writes unknown characters as U\+FFFD"),
        ("added_tokens.0.id", 99, r"the ids are not 0, 1, 2"),
        ("added_tokens.0.special", False, r"writes unknown characters|not one character"),
    ],
)
def test_faults_of_character_files_are_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    data = CharTokenizer.train(["hello"], special_tokens=["<x>"]).to_json()
    edit(path, value)(data)
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_wrong_gpt2_files(tmp_path: Path, shared_data: Path) -> None:
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    with pytest.raises(TokenizerError, match=r"vocab\.json does not exist"):
        ByteBPE.from_gpt2_files(vocab, merges)
    vocab.write_bytes((shared_data / "bpe" / "gpt2_vocab.json").read_bytes())
    with pytest.raises(TokenizerError, match=r"merges\.txt cannot be read"):
        ByteBPE.from_gpt2_files(vocab, merges)
    merges.write_text("#version: 0.2\nĠ t\nĠ\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"merge 1 is 'Ġ', not a pair"):
        ByteBPE.from_gpt2_files(vocab, merges)
    merges.write_text("#version: 0.2\nQ Ġthequick\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"names b' thequick', which is no token"):
        ByteBPE.from_gpt2_files(vocab, merges)
    vocab.write_text("[]", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"the vocabulary is empty"):
        ByteBPE.from_gpt2_files(vocab, merges)


def test_an_unwritable_place_is_named_and_leaves_the_old_file(small_bpe: ByteBPE, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(DataError, match="cannot write"):
        small_bpe.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"
