"""Chat templates: what is rendered, what is trained, and that nobody can write a special token into a message."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, TokenizerError
from groundup.tokenizer import ByteBPE, CharTokenizer
from groundup.tokenizer.chat import (
    DEFAULT_CHAT_TEMPLATE,
    ChatTemplate,
    default_chat_template,
    encode_chat,
    load_chat_template,
    turn_end_id,
)

DEFAULT = ChatTemplate(DEFAULT_CHAT_TEMPLATE)

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What does `dedent` do?"},
    {"role": "assistant", "content": "It removes common leading whitespace.\n"},
    {"role": "user", "content": "日本語?\n\n"},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": "はい 👍🏽"},
]

# Contents that are made to break something: parts of special tokens, private-use characters, Jinja, whitespace.
fragments = st.sampled_from(
    [
        *("<|im_end|>", "<|im_start|>", "<|im_", "end|>", "start|>", "<", "|", ">", "<|", "|>", "<|<|im_end|>im_end|>"),
        *("<|im_start|>system\n", "assistant\n", "\n", " ", "{{ 1 }}", "{% generation %}", "{% raw %}", "a", "é"),
        *("\U000f0000", "\U000f0001\U000f0002", "\ue000", "\ud800", "<|endoftext|>", "<|pad|>"),
    ]
)
contents = st.lists(fragments, max_size=6).map("".join)
chats = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": contents}), min_size=1, max_size=5
)


def without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def trained_text(tokenizer: ByteBPE, ids: list[int], trained: list[bool]) -> list[str]:
    """The texts of the trained spans."""
    runs = itertools.groupby(zip(ids, trained, strict=True), key=lambda item: item[1])
    return [tokenizer.decode([id for id, _ in items]) for inside, items in runs if inside]


def test_the_default_template_is_chatml(small_bpe: ByteBPE) -> None:
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat does `dedent` do?<|im_end|>\n"
        "<|im_start|>assistant\nIt removes common leading whitespace.\n<|im_end|>\n"
    )
    assert DEFAULT.render(CHAT[:3]) == text
    assert DEFAULT.render(CHAT[:3], add_generation_prompt=True) == text + "<|im_start|>assistant\n"
    encoded = encode_chat(small_bpe, DEFAULT, CHAT[:3])
    assert small_bpe.decode(encoded.ids) == text
    spans = trained_text(small_bpe, encoded.ids, encoded.trained)
    assert spans == ["It removes common leading whitespace.\n<|im_end|>"]


def test_the_trained_spans_are_the_answers_and_their_ends(small_bpe: ByteBPE) -> None:
    encoded = encode_chat(small_bpe, DEFAULT, CHAT)
    answers = [message["content"] + "<|im_end|>" for message in CHAT if message["role"] == "assistant"]
    assert trained_text(small_bpe, encoded.ids, encoded.trained) == answers
    prompt = encode_chat(small_bpe, DEFAULT, CHAT[:2], add_generation_prompt=True)
    assert not any(prompt.trained)


@given(chats)
@settings(deadline=None, max_examples=300)
def test_nobody_can_write_a_special_token(small_bpe: ByteBPE, messages: list[dict[str, str]]) -> None:
    encoded = encode_chat(small_bpe, DEFAULT, messages)
    start, end = (small_bpe.special_tokens[name] for name in ("<|im_start|>", "<|im_end|>"))
    special = [id for id in encoded.ids if id in small_bpe.special_tokens.values()]
    assert special == [start, end] * len(messages)
    # Yet the text is what was written, and the answers and nothing else are trained.
    assert small_bpe.decode(encoded.ids) == without_surrogates(DEFAULT.render(messages))
    answers = [without_surrogates(m["content"]) + "<|im_end|>" for m in messages if m["role"] == "assistant"]
    assert trained_text(small_bpe, encoded.ids, encoded.trained) == answers


@given(chats)
@settings(deadline=None, max_examples=150)
def test_a_prompt_is_the_beginning_of_the_conversation(small_bpe: ByteBPE, messages: list[dict[str, str]]) -> None:
    """What the model sees when it answers is what it saw in training, whatever the answer begins with."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index:
            prompt = encode_chat(small_bpe, DEFAULT, messages[:index], add_generation_prompt=True)
            whole = encode_chat(small_bpe, DEFAULT, messages)
            assert whole.ids[: len(prompt.ids)] == prompt.ids
            assert whole.trained[len(prompt.ids)]
            assert not whole.trained[len(prompt.ids) - 1]


def test_special_tokens_cannot_be_put_together_from_parts(small_bpe: ByteBPE) -> None:
    end = small_bpe.special_tokens["<|im_end|>"]
    glued = ChatTemplate("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    trimmed = ChatTemplate("{% for m in messages %}{{ m['content'] | trim }}{% endfor %}|>")
    for cut in range(1, 10):
        parts = ["<|im_end|>"[:cut], "<|im_end|>"[cut:]]
        for blanks in ("", "  ", "\n"):
            messages = [{"role": "user", "content": part + blanks} for part in parts]
            for template in (glued, trimmed):
                encoded = encode_chat(small_bpe, template, messages)
                assert end not in encoded.ids
                assert small_bpe.decode(encoded.ids) == template.render(messages)
    assert end not in encode_chat(small_bpe, trimmed, [{"role": "user", "content": "x<|im_end \n"}]).ids


def test_other_fields_and_keys_are_kept_apart_too(small_bpe: ByteBPE) -> None:
    template = ChatTemplate("{% for m in messages %}<|im_start|>{{ m | tojson }}{{ m.name }}{% endfor %}")
    message: dict[str, Any] = {
        "role": "<|im_end|>",
        "content": "x",
        "name": "<|im_end|>",
        "calls": [{"<|im_end|>": "<|im_end|>", "n": 3}],
    }
    encoded = encode_chat(small_bpe, template, [message])
    assert [id for id in encoded.ids if id >= 416] == [small_bpe.special_tokens["<|im_start|>"]]
    assert small_bpe.decode(encoded.ids) == "<|im_start|>" + json.dumps(message) + "<|im_end|>"


def test_special_tokens_of_odd_shapes() -> None:
    """One character, overlapping itself, made of private-use characters: still not to be written by hand."""
    names = ["§", "aa", "\U000f0000", "\U000f0001x", "<s>", "<s><s>"]
    tokenizer = ByteBPE.from_merges([(b"a", b"a")][:0], special_tokens=names)
    template = ChatTemplate("§{% for m in messages %}<s>{{ m['content'] }}aa{% endfor %}")
    for content in ["§", "aaa", "a", "\U000f0000", "\U000f0001", "x", "<s><s>", "<s", "s><s>", "§§aa§<s>\U000f0001x"]:
        encoded = encode_chat(tokenizer, template, [{"role": "user", "content": content}])
        special = [tokenizer.token_bytes(id).decode() for id in encoded.ids if id >= 256]
        assert special == ["§", "<s>", "aa"], content
        assert tokenizer.decode(encoded.ids) == f"§<s>{content}aa"


def test_special_tokens_of_the_template_and_its_variables_count(small_bpe: ByteBPE) -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0]['content'] }}", variables={"bos_token": "<|endoftext|>"})
    encoded = encode_chat(small_bpe, template, [{"role": "user", "content": "<|endoftext|>"}])
    assert encoded.ids[0] == small_bpe.bos_id
    assert small_bpe.bos_id not in encoded.ids[1:]


def test_templates_can_still_look_at_the_contents(small_bpe: ByteBPE) -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if m.content.startswith('<tool>') %}T{% endif %}"
        "{{ m.content.split('</think>')[-1] | trim }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "<tool>x "}, {"role": "assistant", "content": "<think>y</think>\n\nz"}]
    assert small_bpe.decode(encode_chat(small_bpe, template, messages).ids) == template.render(messages) == "T<tool>xz"


def test_characters_work_as_well() -> None:
    tokenizer = CharTokenizer.train(["user assistant system\nHello?<|im_end|>"])
    encoded = encode_chat(tokenizer, DEFAULT, [{"role": "assistant", "content": "Hello<|im_end|>?"}])
    assert tokenizer.decode(encoded.ids) == "<|im_start|>assistant\nHello<|im_end|>?<|im_end|>\n"
    assert encoded.ids.count(tokenizer.special_tokens["<|im_end|>"]) == 1
    assert sum(encoded.trained) == len("Hello<|im_end|>?") + 1


# --- transformers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(small_bpe: ByteBPE, tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    small_bpe.save(folder, chat_template=DEFAULT_CHAT_TEMPLATE)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_transformers_gives_the_same_text_ids_and_mask(small_bpe: ByteBPE, theirs: Any) -> None:
    draw = random.Random(4)
    words = ["Hello", " x", "\n\n", "it's", " 123", "日本", "  ", "\t", ".", "!\n", "👍🏽", "'", "(a)"]
    for _ in range(150):
        messages = []
        for _ in range(draw.randint(1, 5)):
            role = draw.choice(["user", "assistant"])
            content = "".join(draw.choices(words, k=draw.randint(0, 6)))
            # See the head of chat.py: where an answer begins with whitespace, the ids differ.
            messages.append({"role": role, "content": content.lstrip() if role == "assistant" else content})
        if draw.random() < 0.5:
            messages.insert(0, {"role": "system", "content": "You are\nkind. "})
        for prompt in (False, True):
            text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            assert text == DEFAULT.render(messages, add_generation_prompt=prompt)
            expected = theirs.apply_chat_template(
                messages,
                add_generation_prompt=prompt,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            encoded = encode_chat(small_bpe, DEFAULT, messages, add_generation_prompt=prompt)
            assert encoded.ids == expected["input_ids"]
            assert encoded.trained == [bool(inside) for inside in expected["assistant_masks"]]


def test_where_transformers_joins_across_the_border_we_do_not(small_bpe: ByteBPE, theirs: Any) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\n\nHi"}]
    encoded = encode_chat(small_bpe, DEFAULT, messages)
    joined = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert theirs.decode(joined) == small_bpe.decode(encoded.ids)
    assert trained_text(small_bpe, encoded.ids, encoded.trained) == ["\n\nHi<|im_end|>"]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if loop.first %}\nA{% endif %}\n    {{ m.content }}\n{% endfor %}\n",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}",
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}",
        "{{ messages[0] | tojson(indent=2) }}{{ tools }}{{ documents is none }}{{ undefined_name }}",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].content) }}{{ dict(a=1) | tojson }}",
        "{{ eos_token }}{{ bos_token }}{{ pad_token }}{{ messages | map(attribute='role') | join(',') }}",
        "{% if add_generation_prompt is defined and not add_generation_prompt %}no{% endif %}{{ messages | length }}",
    ],
)
def test_other_templates_render_alike(small_bpe: ByteBPE, theirs: Any, source: str) -> None:
    variables = {f"{role}_token": getattr(theirs, f"{role}_token") for role in ("bos", "eos", "pad")}
    ours = ChatTemplate(source, variables=variables).render(CHAT)
    assert ours == theirs.apply_chat_template(CHAT, chat_template=source, tokenize=False)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}<|im_start|>{{ say(m) }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}<|im_end|>"
        "{%- generation -%}{{ m.content }}<|im_end|>{%- endgeneration -%}{% endif %}{% endfor %}",
    ],
)
def test_generation_blocks_anywhere_in_a_template(small_bpe: ByteBPE, source: str) -> None:
    messages = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three four"}]
    encoded = encode_chat(small_bpe, ChatTemplate(source), messages)
    assert "three four" in "".join(trained_text(small_bpe, encoded.ids, encoded.trained))
    assert small_bpe.decode(encoded.ids) == ChatTemplate(source).render(messages)


def test_a_template_says_whether_it_marks_anything() -> None:
    assert DEFAULT.marks_generation
    assert ChatTemplate("{%- generation -%}x{% endgeneration %}").marks_generation
    plain = ChatTemplate("{{ messages[0].content }} generation")
    assert not plain.marks_generation
    encoded = encode_chat(ByteBPE.from_merges([]), plain, CHAT[:1])
    assert not any(encoded.trained)


def test_nested_blocks_are_refused(small_bpe: ByteBPE) -> None:
    nested = "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}"
    reordered = "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x | reverse }}"
    for source in (nested, reordered):
        with pytest.raises(TokenizerError, match=r"nests or reorders its \{% generation %\} blocks"):
            encode_chat(small_bpe, ChatTemplate(source), CHAT[:1])


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"a list of messages with at least one, not \[\]"),
        ("hello", r"not 'hello'"),
        ({"role": "user", "content": "x"}, r"a conversation is a list of messages"),
        (["x"], r"message 0 is 'x', not an object with role and content"),
        ([{"content": "x"}], r"message 0 has no 'role'; it has 'content'"),
        (
            [{"role": "user", "content": "x"}, {"role": "user", "text": "y"}],
            r"message 1 has no 'content'; it has 'role', 'text'",
        ),
        ([{}], r"message 0 has no 'role'; it has nothing"),
        ([{"role": "user", "content": None}], r"message 0: 'content' is None, not a text"),
        ([{"role": "user", "content": [1]}], r"message 0: 'content' is \[1\], not a text"),
        ([{"role": 3, "content": ""}], r"message 0: 'role' is 3, not a text"),
        ([{"role": "", "content": ""}], r"message 0 has an empty role"),
    ],
)
def test_what_is_no_conversation_is_refused(small_bpe: ByteBPE, messages: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_chat(small_bpe, DEFAULT, messages)
    with pytest.raises(DataError, match=message):
        DEFAULT.render(messages)


def test_what_the_default_template_refuses(small_bpe: ByteBPE) -> None:
    with pytest.raises(TokenizerError, match=r"the role robot<\|im_end\|> is not one of system, user, assistant"):
        encode_chat(small_bpe, DEFAULT, [{"role": "robot<|im_end|>", "content": "x"}])
    with pytest.raises(TokenizerError, match="a system message can only be the first one"):
        DEFAULT.render([CHAT[1], CHAT[0]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", r"a mistake in line 2"),
        ("{% generation %}x", r"a mistake in line 1: .*endgeneration"),
        ("{% include 'x' %}", r"fails|refuses"),
        ("{{ nothing.here }}", r"reads what is not there: 'nothing' is undefined"),
        ("{{ messages[99].content }}", r"reads what is not there"),
        ("{{ raise_exception('no ' + messages[0].role) }}", r"refuses the conversation: no user"),
        ("{{ 1 / 0 }}", r"fails with ZeroDivisionError"),
        ("{{ 'x' + 1 }}", r"fails with TypeError"),
        ("{{ messages.append(1) }}", r"'append' of 'list' object is unsafe"),
        ("{{ messages[0].update({}) }}", r"is unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"'__class__' of 'str' object is unsafe"),
        ("{{ namespace.__init__.__globals__ }}", r"unsafe"),
        ("{{ namespace(__class__=1) }}", r"a namespace cannot hold '__class__'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", r"a namespace cannot hold '_x'"),
        ("{{ cycler.__init__.__globals__.os }}", r"unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", r"fails with OverflowError"),
        ("{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}", r"renders to more than 67108864 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"fails with RecursionError"),
    ],
)
def test_faults_of_a_template_are_named(small_bpe: ByteBPE, source: str, message: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(TokenizerError, match=message):
        ChatTemplate(source).render(messages)
    with pytest.raises(TokenizerError, match=message):
        encode_chat(small_bpe, ChatTemplate(source), messages)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__base__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ messages | attr('__class__') }}",
    ],
)
def test_the_inside_of_python_is_out_of_reach(source: str) -> None:
    """What the sandbox hides is undefined, and undefined values render as nothing (as in transformers)."""
    assert ChatTemplate(source).render([{"role": "user", "content": "x"}]) == ""


def test_a_template_cannot_change_the_conversation() -> None:
    messages = [{"role": "user", "content": "x"}]
    ChatTemplate("{% set m = messages[0] %}{% set m = {'content': 'y'} %}{{ m.content }}").render(messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_messages_that_use_every_private_character_are_refused(small_bpe: ByteBPE) -> None:
    everything = "".join(chr(code) for start in (0xF0000, 0x100000) for code in range(start, start + 0xFFFE))
    with pytest.raises(DataError, match="every private-use character"):
        encode_chat(small_bpe, DEFAULT, [{"role": "user", "content": everything}])
    encoded = encode_chat(small_bpe, DEFAULT, [{"role": "user", "content": everything[3:] + "<|im_end|>"}])
    assert small_bpe.decode(encoded.ids) == f"<|im_start|>user\n{everything[3:]}<|im_end|><|im_end|>\n"


# --- files -------------------------------------------------------------------------------------------------------


def test_loading_a_template(small_bpe: ByteBPE, tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    small_bpe.save(tmp_path)
    assert load_chat_template(tmp_path) is None
    small_bpe.save(tmp_path, chat_template=DEFAULT_CHAT_TEMPLATE)
    loaded = load_chat_template(tmp_path)
    assert loaded is not None
    assert loaded.source == DEFAULT_CHAT_TEMPLATE
    assert loaded.variables["eos_token"] == "<|endoftext|>"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}!", encoding="utf-8")
    loaded = load_chat_template(tmp_path)
    assert loaded is not None
    assert loaded.render(CHAT) == "<|endoftext|>!"


def test_loading_named_and_wrong_templates(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer_config.json"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d{{ bos_token }}"}]
    file.write_text(json.dumps({"chat_template": named, "bos_token": {"content": "<s>"}}))
    loaded = load_chat_template(tmp_path)
    assert loaded is not None
    assert loaded.render(CHAT) == "d<s>"
    for content, message in [
        ("[", "cannot be read"),
        ("[]", "must be a JSON object, not of type list"),
        ('{"chat_template": 5}', "chat_template is of type int, not a text"),
        ('{"chat_template": "{% if"}', "a mistake in line 1"),
    ]:
        file.write_text(content)
        with pytest.raises(TokenizerError, match=message):
            load_chat_template(tmp_path)
    file.write_text("{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja cannot be read"):
        load_chat_template(tmp_path)


def test_the_environment_is_recent_enough() -> None:
    """Older versions of jinja2 have known ways out of the sandbox (CVE-2025-27516)."""
    assert tuple(map(int, __import__("importlib.metadata").metadata.version("jinja2").split("."))) >= (3, 1, 6)
    assert jinja2.sandbox.ImmutableSandboxedEnvironment


LOOP = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}END{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (DEFAULT_CHAT_TEMPLATE, "<|im_end|>"),
        (LOOP.replace("END", "<|pad|>\n") + PROMPT, "<|pad|>"),
        (LOOP.replace("END", "<|im_end|>\n<|endoftext|>") + PROMPT, "<|endoftext|>"),
        # The marks of some templates leave the end of the turn out.
        ("{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}<|pad|>{% endfor %}", "<|pad|>"),
        (LOOP.replace("END", "\n\n") + PROMPT, None),
        (LOOP.replace("END", "\n") + "{{ raise_exception('no answers') }}", None),
    ],
)
def test_the_end_of_a_turn_is_read_off_the_template(small_bpe: ByteBPE, source: str, end: str | None) -> None:
    expected = None if end is None else small_bpe.special_tokens[end]
    assert turn_end_id(small_bpe, ChatTemplate(source)) == expected


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), contents), min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_without_chatml_tokens_turns_end_with_the_end_of_text(talk: list[tuple[str, str]]) -> None:
    """GPT-2 and other base models: the end that a tuned model learns must be one token that nobody can write."""
    tokenizer = ByteBPE.from_merges([], special_tokens=("<|endoftext|>",))
    template, end = default_chat_template(tokenizer), tokenizer.special_tokens["<|endoftext|>"]
    assert turn_end_id(tokenizer, template) == tokenizer.eos_id == end
    messages = [{"role": role, "content": content} for role, content in talk]
    encoded = encode_chat(tokenizer, template, messages)
    assert encoded.ids.count(end) == len(messages) and encoded.ids[-1] == end
    answers = [without_surrogates(content) + "<|endoftext|>" for role, content in talk if role == "assistant"]
    assert trained_text(tokenizer, encoded.ids, encoded.trained) == answers


def test_the_default_template_needs_a_token_to_end_with(small_bpe: ByteBPE) -> None:
    assert default_chat_template(small_bpe).source == DEFAULT_CHAT_TEMPLATE
    with pytest.raises(DataError, match=r"neither <.im_start.> and <.im_end.> nor an end-of-text"):
        default_chat_template(ByteBPE.from_merges([], special_tokens=()))
