"""The same ids as tiktoken, tokenizers and transformers, over real texts of many languages and random ones."""

from __future__ import annotations

import json
import random
import sysconfig
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.tokenizer import ByteBPE, CharTokenizer, load_tokenizer, train_bpe
from groundup.tokenizer.patterns import PATTERNS, split

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")
openai_public = pytest.importorskip("tiktoken_ext.openai_public")

# Assigned long before any of the Unicode versions that regex, tiktoken and tokenizers were built with (they differ:
# a letter assigned last year is a letter to one and an unknown character to another).
OLD = unicodedata.ucd_3_2_0


def is_old(character: str) -> bool:
    return OLD.category(character) not in ("Cn", "Cs") and OLD.category(character) == unicodedata.category(character)


texts = st.lists(
    st.one_of(
        st.sampled_from(["'s", "'S", "'ſ", "'ll", "'LL", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\x85", "\x1c"]),
        st.sampled_from(["123", "1234", "٣٤٥٦", "½", "²", "a", " the", "é", "e\u0301", "日本", "...", "!\n", "__"]),
        st.characters(exclude_categories=["Cs"]).filter(is_old),
    ),
    max_size=25,
).map("".join)


def random_strings(count: int) -> list[str]:
    draw = random.Random(20)
    return [draw.randbytes(draw.randint(1, 200)).decode("utf-8", "replace") for _ in range(count)]


EMOJI = [
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☃️ 1️⃣ 🤷🏻‍♀️",
    "😀😃😄 text😀text 😀\n😀  😀",
]


def sources() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [
        (folder / name).read_text(encoding="utf-8")[:80_000] for name in ("textwrap.py", "ast.py", "email/header.py")
    ]


def oracle(tokenizer: ByteBPE, pattern: str) -> tiktoken.Encoding:
    """tiktoken's own engine with the merges of `tokenizer`; its ranks are our ids."""
    return tiktoken.Encoding(
        "oracle", pat_str=pattern, mergeable_ranks=tokenizer.vocab, special_tokens=tokenizer.special_tokens
    )


@pytest.fixture(scope="module")
def trained(shakespeare: str, languages: dict[str, str]) -> dict[str, ByteBPE]:
    corpus = [shakespeare[:150_000], *sources(), *(text[:2_000] for text in languages.values())]
    return {name: train_bpe(corpus, 1500, pattern=name) for name in PATTERNS}


@pytest.fixture(scope="module")
def gpt2_oracle(gpt2: ByteBPE) -> tiktoken.Encoding:
    return oracle(gpt2, openai_public.r50k_pat_str)


def test_the_real_gpt2_has_the_known_ids(gpt2: ByteBPE) -> None:
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("<|endoftext|>", allow_special=True) == [50256] == [gpt2.eos_id]


def test_tiktoken_agrees_with_the_real_gpt2_on_every_text(
    gpt2: ByteBPE, gpt2_oracle: tiktoken.Encoding, shakespeare: str, languages: dict[str, str]
) -> None:
    corpus = {"shakespeare": shakespeare, **languages}
    corpus |= {f"source {i}": text for i, text in enumerate([*sources(), *EMOJI])}
    corpus |= {f"random {i}": text for i, text in enumerate(random_strings(300))}
    for name, text in corpus.items():
        assert gpt2.encode(text) == gpt2_oracle.encode_ordinary(text), name
        assert gpt2.decode(gpt2.encode(text)) == text, name


@given(texts)
@settings(deadline=None, max_examples=400)
def test_tiktoken_agrees_with_the_real_gpt2_on_any_text(
    gpt2: ByteBPE, gpt2_oracle: tiktoken.Encoding, text: str
) -> None:
    assert gpt2.encode(text) == gpt2_oracle.encode_ordinary(text)
    with_special = f"{text}<|endoftext|>{text}"
    assert gpt2.encode(with_special, allow_special=True) == gpt2_oracle.encode(with_special, allowed_special="all")


def test_surrogates_are_read_as_tiktoken_reads_them(gpt2: ByteBPE, gpt2_oracle: tiktoken.Encoding) -> None:
    for text in ("a\ud800b", "\udfff", "\ud83d\ude00 x", "\ude00\ud83d"):
        assert gpt2.encode(text) == gpt2_oracle.encode_ordinary(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_tiktoken_agrees_with_our_own_merges(
    name: str, trained: dict[str, ByteBPE], shakespeare: str, languages: dict[str, str]
) -> None:
    # tiktoken's own spelling of the pattern where it has one, so that ours is checked too.
    own = {"gpt2": openai_public.r50k_pat_str, "gpt4": cl100k_pattern(), "llama3": PATTERNS["llama3"].portable[0]}
    theirs = oracle(trained[name], own[name])
    for text in [shakespeare[:200_000], *sources(), *EMOJI, *languages.values(), *random_strings(300)]:
        assert trained[name].encode(text) == theirs.encode_ordinary(text)


def cl100k_pattern() -> str:
    """Read tiktoken's pattern without downloading its merges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_args, **_kw: {})
        return str(openai_public.cl100k_base()["pat_str"])


@pytest.mark.parametrize("name", PATTERNS)
@given(text=texts)
@settings(deadline=None, max_examples=250)
def test_the_portable_form_splits_alike_here_and_in_tokenizers(name: str, text: str) -> None:
    pattern = PATTERNS[name]
    here = split(text, pattern)
    assert "".join(here) == text
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern.portable[0]), "isolated")
    assert [piece for piece, _ in theirs.pre_tokenize_str(text)] == here
    compiled = __import__("regex").compile(pattern.portable[0])
    assert compiled.findall(text) == here


def test_the_gpt2_split_is_the_one_built_into_tokenizers(languages: dict[str, str]) -> None:
    theirs = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in [*languages.values(), *EMOJI, *random_strings(100)]:
        spans = [text[start:end] for _, (start, end) in theirs.pre_tokenize_str(text)]
        assert spans == split(text, PATTERNS["gpt2"])


@pytest.mark.parametrize("name", PATTERNS)
def test_the_saved_file_gives_the_same_ids_in_tokenizers(
    name: str, trained: dict[str, ByteBPE], tmp_path: Path, languages: dict[str, str], shakespeare: str
) -> None:
    ours = trained[name]
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in [shakespeare[:100_000], *sources(), *EMOJI, *languages.values(), *random_strings(200)]:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
    draw = random.Random(5)
    for _ in range(200):  # decoding agrees on ids that form no valid UTF-8, too
        ids = [draw.randrange(ours.vocab_size) for _ in range(draw.randint(1, 12))]
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special=True)


def test_the_saved_file_loads_in_transformers(trained: dict[str, ByteBPE], tmp_path: Path, shakespeare: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = trained["llama3"]
    ours.save(tmp_path, max_length=100_000)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = shakespeare[:30_000] + "<|im_start|>user\nHi<|im_end|>\n"
    assert theirs(text)["input_ids"] == ours.encode(text, allow_special=True)
    assert theirs.decode(ours.encode(text)) == text
    assert len(theirs) == ours.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert theirs.model_max_length == 100_000
    # What transformers writes loads here again, with the same ids.
    theirs.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == ours.fingerprint()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3"])
def test_the_ids_stay_ours_beside_the_config_of_any_model(
    trained: dict[str, ByteBPE], tmp_path: Path, model_type: str
) -> None:
    """Without the named class transformers takes the split pattern of the model type (Qwen2: single digits)."""
    transformers = pytest.importorskip("transformers")
    trained["llama3"].save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "In 1234567 days, it'S  \n\n  done  e\u0301"
    assert theirs(text)["input_ids"] == trained["llama3"].encode(text)
    assert theirs.decode(theirs(text)["input_ids"]) == text


def test_the_real_gpt2_survives_saving(gpt2: ByteBPE, tmp_path: Path, languages: dict[str, str]) -> None:
    gpt2.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == gpt2.fingerprint()
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in list(languages.values())[::6]:
        assert again.encode(text) == gpt2.encode(text) == theirs.encode(text).ids


def test_characters_have_the_same_ids_in_tokenizers(tmp_path: Path, shakespeare: str) -> None:
    ours = CharTokenizer.train([shakespeare, "é日😀\x00\r\n"])
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in [shakespeare[:20_000], "e\u0301 é日😀👩‍👩‍👧\x00\r\n  \n", *random_strings(50)]:
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text), skip_special_tokens=False) == ours.decode(ours.encode(text))


def test_characters_load_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = CharTokenizer.train(["hello world\n"])
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "hello xworld\n<|endoftext|>he  lo"
    assert theirs(text)["input_ids"] == ours.encode(text, allow_special=True)
    assert theirs.decode(theirs(text)["input_ids"]) == ours.decode(ours.encode(text, allow_special=True))


def test_our_training_finds_the_merges_of_the_tokenizers_trainer(shakespeare: str) -> None:
    """The two break ties differently, so the counts of the merges are compared, not their order."""
    text = shakespeare[:200_000]
    ours = train_bpe([text], 512, special_tokens=[])
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS["llama3"].portable[0]), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=512,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    assert abs(len(theirs.encode(text).ids) - len(ours.encode(text))) <= 0.001 * len(ours.encode(text))
