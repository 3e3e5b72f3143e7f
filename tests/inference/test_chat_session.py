"""A conversation: history, reuse of the cache, context overflow, saving, interruption."""

from __future__ import annotations

import json
import logging

import pytest

from groundup.core.errors import DataError, ModelError, UsageError
from groundup.inference.sampling import Sampling
from groundup.inference.session import ChatSession, answer_stop_ids
from groundup.inference.text import stream_text
from groundup.tokenizer import SentencePieceBPE
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE, ChatTemplate, encode_chat

TEMPLATE = ChatTemplate(DEFAULT_CHAT_TEMPLATE)


@pytest.fixture
def session(tiny, byte_tokenizer) -> ChatSession:
    model = tiny("qwen3", 3, max_length=600, vocab_size=260)
    return ChatSession(model, byte_tokenizer, TEMPLATE, sampling=Sampling(max_new_tokens=12, seed=1))


def test_history_grows_turn_by_turn(session: ChatSession) -> None:
    first = session.reply("hello")
    second = session.reply("and you?")
    assert session.messages == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and you?"},
        {"role": "assistant", "content": second},
    ]


def test_the_reused_cache_changes_no_answer(session: ChatSession) -> None:
    session.system = "be brief"
    for text in ("hello", "and you?", "äöü €", "bye"):
        fresh = ChatSession(session.model, session.tokenizer, TEMPLATE, system="be brief", sampling=session.sampling)
        fresh.messages = list(session.messages)
        before = sum(len(message["content"]) for message in session.messages)
        assert session.reply(text) == fresh.reply(text)
        assert fresh.num_reused_tokens == 0
        # All of the earlier conversation but what follows the last answer was read from the cache.
        assert session.num_reused_tokens >= before


def test_only_the_new_turn_is_read(session: ChatSession) -> None:
    sizes: list[int] = []
    session.model.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[1]))
    list(session.send("a" * 200))
    assert sizes[0] > 200
    sizes.clear()
    list(session.send("b"))
    assert sizes[0] < 80 and set(sizes[1:]) <= {1}


def test_turns_draw_from_their_own_seeds_and_a_session_repeats(session: ChatSession) -> None:
    twin = ChatSession(session.model, session.tokenizer, TEMPLATE, sampling=session.sampling)
    assert [session.reply("x"), session.reply("x")] == [twin.reply("x"), twin.reply("x")]
    other = ChatSession(session.model, session.tokenizer, TEMPLATE, sampling=session.sampling.replace(seed=2))
    assert other.reply("x") != session.messages[1]["content"]


def test_reset_forgets_the_conversation_and_keeps_the_rest(session: ChatSession) -> None:
    session.system = "be brief"
    first = session.reply("hello")
    session.reply("more")
    session.reset()
    assert session.messages == []
    assert session.reply("hello") == first
    assert session.num_reused_tokens > len("be brief")


def test_a_recurrent_state_that_cannot_be_cut_is_read_again(session: ChatSession, monkeypatch) -> None:
    twin = ChatSession(session.model, session.tokenizer, TEMPLATE, sampling=session.sampling)
    session.reply("hello")
    twin.reply("hello")

    def refuse(length: int) -> None:
        raise ModelError("a recurrent state cannot be truncated")

    monkeypatch.setattr(session._cache, "truncate", refuse)
    session.reset()
    twin.reset()
    assert session.reply("other") == twin.reply("other")
    assert session.num_reused_tokens == 0 < twin.num_reused_tokens


def test_an_answer_that_is_interrupted_stays_as_far_as_it_came(session: ChatSession) -> None:
    pieces = session.send("hello")
    shown = next(pieces).text + next(pieces).text
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": shown}
    fresh = ChatSession(session.model, session.tokenizer, TEMPLATE, sampling=session.sampling)
    fresh.messages = list(session.messages)
    assert session.reply("go on") == fresh.reply("go on")
    assert session.num_reused_tokens > len("hello") + len(shown.encode()) - 4


def test_a_message_without_any_answer_leaves_no_trace(session: ChatSession, monkeypatch) -> None:
    session.send("never taken")
    assert session.messages == []

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.model, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            session.reply("interrupted at once")
    assert session.messages == []
    assert isinstance(session.reply("hello"), str) and len(session.messages) == 2


def test_overflow_drops_the_oldest_turns_and_says_so_once(tiny, byte_tokenizer) -> None:
    model = tiny("llama3", 3, max_length=260, vocab_size=260)
    notices: list[str] = []
    session = ChatSession(
        model,
        byte_tokenizer,
        TEMPLATE,
        system="keep me",
        sampling=Sampling(max_new_tokens=8, temperature=0),
        on_notice=notices.append,
    )
    lengths = []
    for turn in range(8):
        session.reply(f"question number {turn}")
        kept = [{"role": "system", "content": "keep me"}, *session.messages[session.num_dropped : -1]]
        lengths.append(len(encode_chat(byte_tokenizer, TEMPLATE, kept, add_generation_prompt=True).ids))
        assert session.num_dropped % 2 == 0
    assert max(lengths) <= 260 - 8
    assert session.num_dropped > 2 and len(session.messages) == 16
    assert len(notices) == 1 and "260 tokens" in notices[0]
    before = list(session.messages)
    with pytest.raises(UsageError, match=r"make \d+ tokens, the model reads at most 260"):
        session.send("x" * 300)
    assert session.messages == before


def test_a_message_that_barely_fits_is_answered_as_far_as_the_context_goes(tiny, byte_tokenizer, caplog) -> None:
    model = tiny("llama3", 3, max_length=260, vocab_size=260)
    session = ChatSession(model, byte_tokenizer, TEMPLATE, sampling=Sampling(max_new_tokens=50), stop_ids=[])
    overhead = len(
        encode_chat(byte_tokenizer, TEMPLATE, [{"role": "user", "content": ""}], add_generation_prompt=True).ids
    )
    with caplog.at_level(logging.WARNING):
        session.reply("hello")
        pieces = list(session.send("x" * (258 - overhead)))
    assert pieces[-1].finish_reason == "context"
    assert sum(len(piece.steps) for piece in pieces) == 3
    assert [record.name for record in caplog.records] == ["groundup.inference.session"]


def test_saved_conversations_go_on_where_they_were(session: ChatSession, tmp_path) -> None:
    session.system = "be brief"
    session.reply("hello €")
    path = tmp_path / "chats" / "one.json"
    session.save(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    other = ChatSession(session.model, session.tokenizer, TEMPLATE, sampling=session.sampling)
    other.load(path)
    assert (other.system, other.messages) == (session.system, session.messages)
    assert other.reply("and?") == session.reply("and?")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "cannot be read"),
        ("[]", "is no conversation"),
        ('{"messages": [{"role": "user"}]}', "role and content"),
        ('{"messages": [{"role": "user", "content": 5}]}', "role and content"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no answer"),
        (
            '{"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}',
            "message 1 has the role 'assistant' where 'user' is due",
        ),
    ],
)
def test_files_that_hold_no_conversation_are_refused(session: ChatSession, tmp_path, text: str, part: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    session.messages = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "old"}]
    with pytest.raises(DataError, match=part):
        session.load(path)
    assert len(session.messages) == 2
    with pytest.raises(DataError, match="does not exist"):
        session.load(tmp_path / "missing.json")


def test_stop_ids_come_from_the_generation_config_and_the_tokenizer(byte_tokenizer) -> None:
    assert answer_stop_ids(byte_tokenizer, TEMPLATE) == [258, 256]
    assert answer_stop_ids(byte_tokenizer, None) == [256]
    assert answer_stop_ids(byte_tokenizer, TEMPLATE, {"eos_token_id": 7}) == [258, 256, 7]
    assert answer_stop_ids(byte_tokenizer, TEMPLATE, {"eos_token_id": [7, 256, 8]}) == [258, 256, 7, 8]


def test_an_answer_does_not_begin_with_the_blank_of_a_first_word(scripted) -> None:
    """SentencePiece's first word carries a blank; in the history it would be there twice, the template has its own."""
    bytes_ = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    tokenizer = SentencePieceBPE(
        {**bytes_, "\u2581Hi": 259, "\u2581you": 260},
        [],
        special_tokens={"<unk>": 0, "<s>": 1, "</s>": 2},
        roles={"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    )
    template = ChatTemplate("{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}")
    prompt = encode_chat(tokenizer, template, [{"role": "user", "content": "a"}], add_generation_prompt=True).ids
    model = scripted([0] * (len(prompt) - 1) + [259, 260, 2], vocab_size=261)
    chat = ChatSession(model, tokenizer, template, sampling=Sampling(temperature=0))
    assert chat.reply("a") == "Hi you"
    assert chat.messages[-1]["content"] == "Hi you"
    pieces = stream_text(model, tokenizer, prompt, Sampling(temperature=0), stop_ids=[2])
    assert "".join(piece.text for piece in pieces) == " Hi you", "a text that goes on keeps its blank"
