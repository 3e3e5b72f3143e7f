"""Real weights through the command line: SmolLM2-135M and MiniLM, there and back, beside llama.cpp."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundup.core.errors import GroundupError
from groundup.inference.config import Sampling
from groundup.inference.embed import embed_texts
from groundup.inference.generate import generate
from groundup.inference.session import answer_stop_ids
from groundup.model.load import load_model
from groundup.model.sources import locate_model
from groundup.tokenizer.chat import encode_chat

sys.path.insert(0, str(Path(__file__).parent))
from cli_runner import run, run_here

QUESTIONS = ["What is the capital of France?", "Write one sentence about the sea."]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return _located("smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    return _located("minilm")


def _located(name: str) -> Path:
    try:
        return locate_model(name)
    except GroundupError as error:
        pytest.skip(str(error))


@pytest.fixture
def peer() -> Any:
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: make oracles")
    from benchmarks import llama_cpp_peer

    return llama_cpp_peer


def test_chat_gives_a_sensible_answer(smollm2: Path) -> None:
    done = run("chat", "smollm2-135m", "--max-new-tokens", "20", input="What is 2+2?\n")
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout


def test_weights_in_bfloat16_answer_too(smollm2: Path) -> None:
    done = run("generate", "smollm2-135m", "The capital of France is", "--dtype", "bfloat16", "--max-new-tokens", "3",
               "--temperature", "0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    wrong = run("generate", "smollm2-135m", "Hi", "--dtype", "int4")
    assert wrong.returncode == 2 and "int4" in wrong.stderr


def test_sft_preview_marks_the_answer_by_a_template_without_marks(smollm2: Path, tmp_path: Path) -> None:
    record = {"instruction": "Say hello.", "input": "", "output": "Hello, you."}
    (tmp_path / "data.json").write_text(json.dumps([record, record]))
    done = run("sft", "smollm2-135m", str(tmp_path / "data.json"), "--preview", "1")
    assert done.returncode == 0, done.stderr
    assert "5 of " in done.stdout, "four tokens of the answer and the end of the turn"


def test_the_same_distributions_as_llama_cpp(smollm2: Path, peer: Any, tmp_path: Path, shared_data: Path) -> None:
    from benchmarks.smollm2 import distance, our_logits

    text = (shared_data / "shakespeare" / "input.txt").read_text(encoding="utf-8")[:2000]
    ids = peer.tokenize(smollm2, text)[:256]
    assert load_model(smollm2).tokenizer.encode(text)[:256] == ids
    peer.quantize(smollm2, tmp_path / "f32.gguf", "F32", threads=1)
    reference = peer.logits(tmp_path / "f32.gguf", ids, context=256, threads=1)
    ours = distance(reference, our_logits(smollm2, ids, context=256))
    assert ours["top1"] == 1.0 and ours["kl"] < 1e-8
    theirs = distance(reference, peer.logits(smollm2, ids, context=256, threads=1))
    assert theirs["kl"] > 1e-4, "if llama.cpp stops rounding activations, the docs must say so"


@pytest.mark.slow
def test_the_same_distributions_over_2048_positions(smollm2: Path, peer: Any, shared_data: Path) -> None:
    from benchmarks.smollm2 import measure

    rows = measure()
    for name in ("ours, of the Q4_1 file", "ours, of the F32 copy"):
        assert rows[name]["top1"] >= 0.999 and rows[name]["kl"] < 1e-5 and rows[name]["margin"] < 1e-2
        assert rows[name]["kl"] <= rows["llama.cpp, of the Q4_1 file"]["kl"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_logits_as_transformers(smollm2: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate: make oracles")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    ours = load_model("smollm2-135m").model
    ids = torch.randint(49152, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = theirs(ids).logits, ours.logits(ours(ids))
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_an_exported_file_chats_the_same_in_llama_cpp(smollm2: Path, peer: Any, tmp_path: Path) -> None:
    done = run("export", "smollm2-135m", "--type", "F32", "--out", str(tmp_path / "s.gguf"))
    assert done.returncode == 0, done.stderr
    assert "513 MB" in done.stdout or "538 MB" in done.stdout or "540 MB" in done.stdout
    loaded = load_model(tmp_path / "s.gguf")
    stops = answer_stop_ids(loaded.tokenizer, loaded.chat_template, loaded.generation)
    assert loaded.chat_template is not None
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = encode_chat(loaded.tokenizer, loaded.chat_template, messages, add_generation_prompt=True).ids
        theirs = peer.tokenize(tmp_path / "s.gguf", peer.chat_prompt(tmp_path / "s.gguf", messages), special=True)
        assert ids == theirs
        expected = peer.greedy(tmp_path / "s.gguf", ids, 24, stops, threads=1)
        steps = generate(loaded.model, ids, Sampling(temperature=0.0, max_new_tokens=24), stop_ids=stops)
        assert [step.token for step in steps if step.token not in stops] == expected


def test_export_to_a_directory_that_transformers_loads(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    done = run("export", "minilm", "--to", "hf", "--out", str(tmp_path / "m"))
    assert done.returncode == 0, done.stderr
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "m", add_pooling_layer=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    lengths = [
        json.loads((f / "sentence_bert_config.json").read_text())["max_seq_length"] for f in (minilm, tmp_path / "m")
    ]
    assert lengths == [256, 256]
    text = "The quick brown fox."
    batch = tokenizer([text], return_tensors="pt")
    assert batch["input_ids"][0].tolist() == loaded.tokenizer.encode_with_special(text)
    with torch.no_grad():
        difference = theirs(**batch).last_hidden_state - loaded.model(batch["input_ids"])
    assert float(difference.abs().max()) < 1e-5


def test_embeddings_equal_transformers(minilm: Path, shared_data: Path) -> None:
    transformers = pytest.importorskip("transformers")
    texts = [path.read_text(encoding="utf-8")[:1500] for path in sorted((shared_data / "udhr").iterdir())[:12]]
    texts += ["", "a", "Grüße", "x" * 300]
    assert json.loads((minilm / "sentence_bert_config.json").read_text())["max_seq_length"] == 256, "where it cuts"
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    loaded = load_model("minilm")
    assert float((embed_texts(loaded.model, loaded.tokenizer, texts, batch_size=5) - expected).abs().max()) < 1e-5


def test_embed_ranks_articles_by_meaning(minilm: Path, shared_data: Path, tmp_path: Path) -> None:
    text = next(p for p in (shared_data / "udhr").iterdir() if "eng" in p.name).read_text(encoding="utf-8")
    paragraphs = [line.strip() for line in text.splitlines() if len(line.split()) > 6]
    (tmp_path / "articles.txt").write_text("\n".join(paragraphs), encoding="utf-8")
    done = run("embed", "minilm", "--file", tmp_path / "articles.txt", "--query", "nobody may be a slave", "--top", "2")
    assert done.returncode == 0, done.stderr
    assert "slavery" in done.stdout.lower(), done.stdout
    loaded = load_model("minilm")
    wanted = {"schools and learning": "education", "holidays and free time": "leisure", "torture": "torture"}
    articles = embed_texts(loaded.model, loaded.tokenizer, paragraphs)
    for vector, word in zip(embed_texts(loaded.model, loaded.tokenizer, list(wanted)), wanted.values(), strict=True):
        best = (articles @ vector).topk(2).indices.tolist()
        assert any(word in paragraphs[index].lower() for index in best), word


def test_embed_writes_vectors(minilm: Path, tmp_path: Path) -> None:
    done = run("embed", "minilm", "one", "two words", "--out", str(tmp_path / "v.npy"))
    assert done.returncode == 0, done.stderr
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (2, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    done = run("embed", "minilm", "one")
    row = json.loads(done.stdout)
    assert row["text"] == "one" and np.allclose(row["vector"], vectors[0], atol=1e-6)


WITH_WEIGHTS = [
    ("chat",),
    ("generate", "hi"),
    ("export",),
    ("export", "--to", "hf", "--out", "x"),
    ("sft", str(Path(__file__)), "--out", "x"),
    ("embed", "hi"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "minilm"], "there is nothing to embed"),
        (["embed", "minilm", "x", "--out", "v.csv"], "vectors are written as .npy or .jsonl"),
        (["export", "nothing-here"], "nothing-here"),
        (["export", "qwen3", "--type", "Q9"], "no GGUF type named 'Q9'"),
        (["export", "qwen3", "--to", "hf"], "--out is needed"),
        (["export", "qwen3", "--to", "hf", "--type", "Q8_0"], "--type Q8_0 is for --to gguf"),
        (["export", "qwen3", "--dtype", "float32"], "--dtype float32 is for --to hf"),
        (["chat", "no/such-model"], "no/such-model"),
        *(([verb, "qwen3", *rest], "qwen3 is a preset") for verb, *rest in WITH_WEIGHTS),
        *(
            (["embed", "minilm", "x", option, "0"], f"{option} 0: give a number")
            for option in ("--top", "--batch-size")
        ),
        (["embed", "minilm", "x", "--out", "no-folder/v.npy"], "there is no folder no-folder"),
    ],
)
def test_wrong_calls_say_what_to_do(arguments: list[str], message: str) -> None:
    done = run_here(*arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_sentence_encoder_is_no_language_model(minilm: Path, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    for arguments in (
        ["chat"],
        ["generate", "hi"],
        ["sft", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "o")],
    ):
        done = run_here(arguments[0], "minilm", *arguments[1:])
        assert done.returncode == 2 and "minilm is a sentence encoder" in done.stderr, done.stderr
        assert done.stdout == "", "nothing is printed before"
    done = run_here("embed", "smollm2-135m", "hi")
    assert done.returncode == 2 and "use a sentence encoder" in done.stderr


def test_lines_end_at_line_ends(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("one\u2028still one\r\n\r\nsecond\x0cstill second\n".encode())
    done = run("embed", "minilm", "--file", tmp_path / "t.txt")
    texts = [json.loads(line)["text"] for line in done.stdout.rstrip().split("\n")]
    assert texts == ["one\u2028still one", "second\x0cstill second"]


def test_rounding_twice_is_said(smollm2: Path, tmp_path: Path) -> None:
    done = run_here("export", "smollm2-135m", "--type", "Q4_0", "--out", tmp_path / "s.gguf")
    assert done.returncode == 0 and "rounded again as Q4_0" in done.stderr and "Q4_1" in done.stderr
