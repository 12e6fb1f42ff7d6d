"""Golden encodings by Hugging Face's `tokenizers` library.

tests/golden/tokenizer/
  strings.jsonl            one object a line: "text"; "ids" (DeepSeek-V3's tokenizer, nothing added at the ends,
                           special tokens recognised); "plain_ids", only where it differs: the ids when
                           special tokens in the text are NOT recognised
  deepseek_v3/             tokenizer.json.gz and tokenizer_config.json as given, licence texts
  small/tokenizer.json     byte-level BPE of 1,000 tokens with the same three-stage pre-tokenizer, trained by
                           `tokenizers` on small/corpus.txt.gz (public-domain text, one training item a line)
  small/strings.jsonl      the first SMALL_STRINGS of the same strings under that tokenizer
The strings: hand-written edge cases first, then excerpts (Universal Declaration of Human Rights in 205
language versions; public-domain books and poems; MIT-licensed code), then random strings of characters that
have had the same class since Unicode 3.2, so that no table version decides a test. Every id list is checked
to decode to its text.

Run: .venv-oracle/bin/python tools/make_tokenizer_goldens.py TOKENIZER_DIR CORPORA_DIR
  TOKENIZER_DIR   tokenizer.json.gz, tokenizer_config.json and DeepSeek-*.txt (licences)
  CORPORA_DIR     udhr, english_books, chinese_poetry, code .jsonl.xz ("text" per line)
"""

import gzip
import itertools
import json
import lzma
import pathlib
import random
import shutil
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokenizer"
SMALL_STRINGS = 500
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"

EDGE_CASES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\t", "\t\t", " \n", "\n ", " \n \n", "  a", "a  ", "a  b", "a \n b",
    "a\n\n\nb", "a\r\n\r\nb", "\ta", "\t\ta", " \ta", "a\t\n", "a\n\t\n", "\n\n  a", "a   \n", "   \n   ", "a\u00a0b", "a \u00a0 b",
    "a\u0085b", "a\u000bb", "a\u000cb", "a\u001cb\u001db", "a\u180eb", "a\u200bb", "a\u2028b\u2029c", "a\u202fb\u205fc", "\u3000中文\u3000", "a\u2003\u2003b",
    "\ufeffBOM", "a\u0000b", "\u0000", "\u007f", "\u0001\u0002",
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567", "1234567890123", " 1", " 12 345 6789", "3.14159", "1,000,000", "a1b22c333d4444",
    "0x1F", "1e-10", "２０２４年", "٣٤٥٦", "Ⅳ", "½", "x²", "①②③④", "१२३४", "12:34:56", "2024-12-26", "+1 (555) 010-9999",
    "Hello", " Hello", "Hello!", "Hello, world!", "hello world", "HELLO WORLD", "HelloWorld", "hello_world", "hello-world", "don't", "we'll", "I'M", "it's'", "'tis",
    "!a", "!!a", "!ab1", ".com", "a.b.c", "@user", "#tag", "$x", "_a", "__init__", "->a", "=>", "==", "!==", "...", "…", " ...", "  ...", "?!", "?!\n", "?!\n\n", "a.\n", "a.\r\n",
    " {", "{\n", "{\n\n", "}\n}", "();", "();\n", " //", " // x", "/* x */", "\\n", "\\", "\\\\", "``", "```python\n", "~~~", "^_^", "|a|", "a|b", "[a]", "[[a]]", "<a>", "</a>",
    "中", "中文", "你好，世界！", "你好,世界", "中文abc", "abc中文", "中1文", "中文123中文", "。\n", "。\n\n", "，", "“引号”", "《书》", "、、", "「日本」",
    "ひらがな", "カタカナ", "ｶﾀｶﾅ", "ひらがなカタカナ漢字", "東京タワー", "ーー", "・", "々", "〇", "㐀", "鿿", "\u9fa5\u9fa6", "𠀀", "中𠀀文",
    "한국어", "안녕하세요 세계", "ᄒ\u1161\u11ab", "Привет, мир!", "Ελληνικά", "עברית", "العربية", "مرحبا بالعالم", "हिन्दी", "नमस्ते दुनिया", "ภาษาไทย", "Tiếng Việt", "Türkçe İıŞş",
    "é", "e\u0301", "e\u0301\u0302\u0303", "\u0301", " \u0301", "a \u0301", "\u0301a", "1\u0301", "!\u0301", "\n\u0301", "ﬁ", "ß", "ǅ", "Å", "\u212b",
    "😀", "😀😀", " 😀", "a😀b", "👨‍👩‍👧‍👦", "👍🏽", "🇨🇳🇩🇪", "❤️", "❤", "✈️ 12", "🏳️‍🌈", "©®™", "→⇒", "∑∫√", "≤≥≠", "€£¥", "°C", "µ", "№", "‰", "`a", "´a", "¨",
    "\u202eabc\u202c", "a\u00adb", "a\u2060b", "\ue000", "\U000f0000", "\ufffd", "\U0010ffff", "\u0378", "\ufffe",
    "x = 1\n    y = 2\n\n\n    return x", "def f(x):\n\treturn x**2\n", "for(int i=0;i<n;++i){a[i]+=b[i];}", "if (a) {\r\n    b();\r\n}\r\n", "SELECT * FROM t WHERE a='b';", "$\\frac{a}{b}$", "\\begin{align}",
    "https://example.com/a?b=c&d=%20#e", "user@example.com", "C:\\Users\\x", "a\tb\tc\n1\t2\t3\n", "key: value\n- item\n", "| a | b |\n|---|---|\n", "**bold** _it_", "<div class=\"x\">y</div>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "          ", " " * 100, "\n" * 50, "=" * 80, "-" * 33, "ab" * 40, "哈" * 30, "啊啊啊啊！！！！", "9" * 50, "\t" * 20, "!" * 25, "\u00a0" * 5,
    "a b  c   d    e     f", "a\nb\n\nc\n\n\nd", " \n  \n   \n", "word \nword", "word\n word", "word \n word", "end. \n\nNext", "x \r\n y", "\u3000\n", "\n\u3000\u3000段落",
]

SPECIALS = [
    BOS, EOS, PAD, BOS + "Hello", "Hello" + EOS, BOS + BOS, f"{BOS}You are helpful.<｜User｜>Hi<｜Assistant｜>Hello!{EOS}",
    "<｜User｜>", "<｜User｜> x", "x <｜User｜>", "x<｜User｜>\n", "<｜Assistant｜>", "<|EOT|>", "a<|EOT|>b", "<｜fim▁begin｜>def f():<｜fim▁hole｜>    return 1<｜fim▁end｜>",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>" + EOS,
    "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>21<｜tool▁output▁end｜><｜tool▁outputs▁end｜>", "<｜place▁holder▁no▁0｜>", "<｜place▁holder▁no▁799｜>", "<｜place▁holder▁no▁800｜>",
    "<｜place▁holder▁no▁1｜><｜place▁holder▁no▁12｜>", "<|User|>", "<｜user｜>", "<｜User", "｜>", "<｜ User｜>", "<｜begin_of_sentence｜>", "<｜begin▁of▁sentence", "<think>", "</think>\n", "<｜｜User｜>", "<<｜User｜>>", "12<｜User｜>34", "中<｜Assistant｜>文", " " + EOS + " ",
]


def read_texts(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def excerpts(rng, texts, count, longest):
    """Random slices, at character positions."""
    for _ in range(count):
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - longest))
        yield text[start:start + rng.randint(longest // 4, longest)]


def stable_characters():
    """Assigned characters whose category is the same in Unicode 3.2 and today; by category."""
    old, groups = unicodedata.ucd_3_2_0, {}
    for code in range(0x20000):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] != "C" and old.category(character) == category:
            groups.setdefault(category, []).append(character)
    return [group for _, group in sorted(groups.items())]


def random_strings(rng, count):
    groups = stable_characters() + [[" ", "\n", "\r", "\t", "  "], list("aZ09.,!_'")]
    for _ in range(count):
        yield "".join(rng.choice(rng.choice(groups)) for _ in range(rng.randint(1, 14)))


def all_strings(corpora):
    rng = random.Random(0)
    udhr = read_texts(corpora / "udhr.jsonl.xz")
    yield from EDGE_CASES
    yield from SPECIALS
    for text in udhr:
        yield from excerpts(rng, [text], 1, 60)
    yield from excerpts(rng, read_texts(corpora / "english_books.jsonl.xz"), 90, 140)
    yield from excerpts(rng, read_texts(corpora / "chinese_poetry.jsonl.xz"), 90, 50)
    yield from excerpts(rng, read_texts(corpora / "code.jsonl.xz"), 120, 140)
    yield from random_strings(rng, 330)


def check_round_trip(tokenizer, text, ids):
    assert tokenizer.decode(ids, skip_special_tokens=False) == text, (text, ids)


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def encode_all(strings, tokenizer, plain, path):
    rows = []
    for text in strings:
        row = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids}
        check_round_trip(tokenizer, text, row["ids"])
        if plain is not None:
            plain_ids = plain.encode(text, add_special_tokens=False).ids
            check_round_trip(plain, text, plain_ids)
            if plain_ids != row["ids"]:
                row["plain_ids"] = plain_ids
        rows.append(row)
    write_lines(path, rows)
    print(f"{path.relative_to(OUT)}: {len(rows)} strings, {sum('plain_ids' in r for r in rows)} with plain_ids")


def training_text(corpora):
    """About 120 KB of public-domain prose and verse."""
    rng = random.Random(1)
    books = read_texts(corpora / "english_books.jsonl.xz")
    poems = read_texts(corpora / "chinese_poetry.jsonl.xz")
    parts = [book[20000:32000] for book in books[:6]]
    parts += [rng.choice(poems) for _ in range(80)]
    parts += [text[:1500] for text in rng.sample(read_texts(corpora / "udhr.jsonl.xz"), 12)]
    return "\n".join(parts).replace("\r", "").split("\n")


def train_small(lines, published):
    tokenizer = Tokenizer(models.BPE())
    stages = published["pre_tokenizer"]["pretokenizers"]
    splits = [pre_tokenizers.Split(Regex(s["pattern"]["Regex"]), "isolated") for s in stages[:3]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1000, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def main():
    source, corpora = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    (OUT / "deepseek_v3").mkdir(parents=True, exist_ok=True)
    (OUT / "small").mkdir(parents=True, exist_ok=True)
    for path in [source / "tokenizer.json.gz", source / "tokenizer_config.json", *source.glob("DeepSeek-*.txt")]:
        shutil.copyfile(path, OUT / "deepseek_v3" / path.name)

    published = json.loads(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    tokenizer = Tokenizer.from_str(json.dumps(published))
    plain = Tokenizer.from_str(json.dumps(dict(published, added_tokens=[])))
    strings = list(dict.fromkeys(all_strings(corpora)))
    encode_all(strings, tokenizer, plain, OUT / "strings.jsonl")

    lines = training_text(corpora)
    with open(OUT / "small" / "corpus.txt.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        out.write("\n".join(lines).encode())
    small = train_small(lines, published)
    small.save(str(OUT / "small" / "tokenizer.json"))
    encode_all(itertools.islice(strings, SMALL_STRINGS), small, None, OUT / "small" / "strings.jsonl")


if __name__ == "__main__":
    main()
