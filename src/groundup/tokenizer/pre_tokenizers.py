"""The pre-tokenizers that GGUF files name: which regular expressions cut a text, one after the other.

A GGUF file holds no expression, only a name (`tokenizer.ggml.pre`). The expressions here are those of the models'
`tokenizer.json`. llama.cpp runs some of them in an approximation, and gives other ids than the model was trained with:
`gpt-4o`, `tekken`, `youtu` and `kimi-k2` cut off combining marks and tell upper from lower case in ASCII only,
`tiny_aya` joins digits to what stands before them, `superbpe` groups ASCII digits only, and no `(?i:'s)` matches the
long s (U+017F). Left out: `afmoe`, whose expression is not known here, and the names of tokenizers that are not
byte-level BPE. Facts from llama.cpp, src/llama-vocab.cpp (llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from dataclasses import dataclass

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# `(?![\s\S])` is "end of the text": `$` also matches before a final newline, or at each line end, in some engines.
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
)

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_BLANKS}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
)

# From GPT-4o on, a word is capitals before small letters, so `camelCase` is cut.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_SIGNS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT4O = rf"{_CAMEL % (f'{_CONTRACTION}?', f'{_CONTRACTION}?')}|\p{{N}}{{1,3}}|{_SIGNS_SLASH}|{_BLANKS}"
_TEKKEN = rf"{_CAMEL % ('', '')}|\p{{N}}|{_SIGNS_SLASH}|{_BLANKS}"
_YOUTU = rf"{_CAMEL % (f'{_CONTRACTION}?', f'{_CONTRACTION}?')}|\p{{N}}|{_SIGNS_SLASH}|{_BLANKS}"
_NOT_HAN = r"(?:(?!\p{Han})%s)"
_KIMI_CAMEL = _CAMEL.replace(_UPPER, _NOT_HAN % _UPPER).replace(_LOWER, _NOT_HAN % _LOWER)
_KIMI = (
    rf"\p{{Han}}+|{_KIMI_CAMEL % (f'{_CONTRACTION}?', f'{_CONTRACTION}?')}"
    rf"|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
)

_ASCII_SIGN = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK_WORDS = rf"{_ASCII_SIGN}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# The cased letters of some Unicode version, as DeepSeek's file lists them.
_CASED = (
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DIGITS_FROM_THE_RIGHT = r"\d{1,3}(?=(?:\d{3})*\b)"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

#: Expressions that match every character of any text, so that nothing is left between two matches.
COVERING = frozenset({GPT2, GPT4, LLAMA3, _QWEN2, _QWEN35, _GPT4O, _TEKKEN, _YOUTU, _KIMI, _BAILING})


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for.

    Attributes:
        steps: regular expressions; each cuts the pieces that the one before left.
        ignores_merges: a piece that is a token as a whole takes its id without looking at the merges.
        adds_bos: what holds where the file says nothing about `add_bos_token`.
    """

    steps: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_DIGIT = r"\p{N}"
_PLAIN = PreTokenizer((GPT2,))
_LLAMA = PreTokenizer((LLAMA3,), ignores_merges=True, adds_bos=True)
_DIGITS_THEN_GPT2 = PreTokenizer((_DIGIT, GPT2))
_QWEN = PreTokenizer((_QWEN2,))
_O200K = PreTokenizer((_GPT4O,))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _CJK, rf"{_DEEPSEEK_WORDS}[\r\n]*|{_BLANKS}"))
_BAILING_LIKE = PreTokenizer((_BAILING,))
_LLAMA_BY_MERGES = PreTokenizer((LLAMA3,))
_BLOOM_LIKE = PreTokenizer((_BLOOM,))

#: By the name in `tokenizer.ggml.pre`. Of names that mean the same, the first is the one that an export writes.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": _PLAIN,
    "llama-bpe": _LLAMA,
    "smollm": _DIGITS_THEN_GPT2,
    "qwen2": _QWEN,
    "gpt-4o": _O200K,
    "tekken": PreTokenizer((_TEKKEN,), ignores_merges=True, adds_bos=True),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[A-Za-z{_CASED}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, _DIGIT)),
    "deepseek-v3": _DEEPSEEK3,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "qwen35": PreTokenizer((_QWEN35,)),
    "bloom": _BLOOM_LIKE,
    "viking": PreTokenizer((_BLOOM, _DIGIT)),
    "jais-2": PreTokenizer(
        (
            rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+|\s{{512}}(?!\S)|\s{{256}}(?!\S)|\s{{128}}(?!\S)"
            r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            _DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        adds_bos=True,
    ),
    "tiny_aya": PreTokenizer((DIGITS_FROM_THE_RIGHT, _GPT4O)),
    "kimi-k2": PreTokenizer((_KIMI,)),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "bailingmoe": _BAILING_LIKE,
    "seed-coder": PreTokenizer(
        (rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
    ),
    "ufakzeka": PreTokenizer((rf"{_WORD}|{_DIGIT}|{_SIGNS}|{_BLANKS}",)),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", _QWEN2)),
    "exaone-moe": PreTokenizer(
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{_DIGIT}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SIGNS}|{_BLANKS}"), ignores_merges=True
    ),
    "spark2_5": PreTokenizer((r"\p{N}{1,3}", _CJK, rf"{_DEEPSEEK_WORDS}|[\r\n]|\s+(?!\S)|\s+", _DIGIT)),
    "youtu": PreTokenizer(
        (
            "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
            f"\ufe30-\ufe4f]+|[\u3105-\u312f]+|{_CJK}",
            _YOUTU,
        ),
        ignores_merges=True,
    ),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    # The same under other names.
    **dict.fromkeys(
        ["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], _LLAMA
    ),
    "glm4": PreTokenizer((LLAMA3,), ignores_merges=True),
    "glm5": PreTokenizer((LLAMA3,), ignores_merges=True),
    **dict.fromkeys(["smaug-bpe", "dbrx", "chatglm-bpe"], _LLAMA_BY_MERGES),
    **dict.fromkeys(
        ["phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum"], _PLAIN
    ),
    **dict.fromkeys(["modern-bert", "exaone4", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"], _PLAIN),
    **dict.fromkeys(["jina-v1-en", "jina-v2-code", "roberta-bpe"], _PLAIN),
    **dict.fromkeys(["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], _DIGITS_THEN_GPT2),
    "mellum2": _DIGITS_THEN_GPT2,
    **dict.fromkeys(["stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan"], _QWEN),
    **dict.fromkeys(["solar-open", "grok-2"], _QWEN),
    **dict.fromkeys(["llama4", "kanana2", "talkie", "minimax-m2"], _O200K),
    "granite-embed-multi-97m": PreTokenizer((_GPT4O,), ignores_merges=True),
    "cohere2moe": PreTokenizer((DIGITS_FROM_THE_RIGHT, _GPT4O)),
    **dict.fromkeys(["hunyuan-dense", "hy_v4", "joyai-llm"], _DEEPSEEK3),
    **dict.fromkeys(["bailingmoe2", "llada-moe"], _BAILING_LIKE),
    **dict.fromkeys(["poro-chat", "gpt3-finnish"], _BLOOM_LIKE),
}
