"""Golden encodings of a tokenizer that normalises to NFC, as Qwen2's do, by Hugging Face's `tokenizers`.

tests/golden/tokenizer/nfc/
  tokenizer.json   the vocabulary of ../small with Qwen2's split pattern, the normaliser NFC, and added tokens
                   that are looked for before it and behind it
  strings.jsonl    one object a line: "text"; "ids" (added tokens recognised); "plain_ids", only where it
                   differs: the ids when they are not; "nfc": what the ids decode to
  forms.jsonl      [text, its form C] by `tokenizers`, for strings of letters, marks and Hangul parts
Composed and decomposed accents, marks in every order, Hangul syllables and their parts, Japanese voiced
sounds, singletons (the Kelvin sign), excluded compositions, emoji, text with nothing to do.
`tokenizers` 0.23 normalises with Unicode 9's tables: marks assigned since then are left out.

Run: .venv-oracle/bin/python tools/make_nfc_goldens.py
"""

import json
import pathlib
import random
import unicodedata

from tokenizers import Tokenizer, normalizers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokenizer" / "nfc"
QWEN2_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = [("<|im_start|>", False, True), ("<e\u0301nd>", False, False), ("Ame\u0301lie", True, False), ("K\u212a", True, False)]

HAND = [
    "", "plain text, nothing to do", "é", "e\u0301", "re\u0301sume\u0301 and résumé", "e\u0301\u0302\u0303", "\u0301", " \u0301", "a \u0301b",
    "a\u0323\u0307", "a\u0307\u0323", "q\u0307\u0323", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "ự", "u\u031b\u0323", "u\u0323\u031b", "Å", "A\u030a", "\u212b", "\u212a", "Ω", "\u2126",
    "\u1100\u1161", "\u1100\u1161\u11a8", "가\u11a8", "각", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국어", "가\u11a7", "가\u11a7\u11a8", "\u1161\u11a8", "\u1100\u1100\u1161",
    "か\u3099", "が", "は\u309a", "ハ\u309a", "ー\u3099", "カタカナ", "日本語のテキスト、漢字", "神\ufa19", "\u2f800", "\u0958", "क\u093c", "\u0929", "न\u093c", "\u09c7\u09be", "\u0b47\u0b56",
    "\u0344", "\u0308\u0301", "α\u0313\u0301\u0345", "\u1f84", "α\u0345\u0301\u0313", "и\u0306", "й", "Привет, мир", "ё", "е\u0308", "שׁ", "ש\u05c1", "بِّ", "ب\u0651\u0650",
    "Tie\u0302\u0301ng Vie\u0323\u0302t", "Tiếng Việt", "👨\u200d👩\u200d👧", "❤\ufe0f", "👍🏽", "x\u0338=y", "≠", "=\u0338", "a\u0000e\u0301", "\ufb01", "½", "ﬁn e\u0301", "e\u0301\r\n\r\ne\u0301  e\u0301",
    "<|im_start|>e\u0301", "e<|im_start|>\u0301", "<e\u0301nd>", "<énd>", "Ame\u0301lie", "Amélie", "x Ame\u0301lie y Amélie", "KK", "K\u212a", "\u212aK", "e\u0301<|im_start|>Ame\u0301lie<e\u0301nd>가\u11a8",
    "'s re\u0301\u0301 1234 'RE", "e\u0301" * 300, "a\u0316\u0301" * 40, "a" + "\u0301\u0316" * 40, "中文" * 50 + "e\u0301" + "中文" * 50, "한" * 30 + "\u11a8", "🎉" * 20 + "\u0301",
]


def oldest_mark(code):
    """Whether Unicode 9's tables know this mark as Unicode's newest do."""
    return unicodedata.ucd_3_2_0.combining(chr(code)) == unicodedata.combining(chr(code)) != 0


def random_strings(rng, count):
    decomposed = [unicodedata.normalize("NFD", chr(c)) for c in range(0x20000) if not 0xD800 <= c < 0xE000]
    parts = sorted({part for text in decomposed if len(text) > 1 for part in text if not unicodedata.combining(part)})
    parts = [part for part in parts if unicodedata.ucd_3_2_0.category(part) != "Cn"]
    marks = [chr(c) for c in range(0x11000) if oldest_mark(c)]
    pools = [parts, marks, marks, list("aeouAÅéñ 1.'\n"), [chr(c) for c in range(0x1100, 0x1200)],
             [chr(c) for c in range(0xAC00, 0xAC40)], list("がかは中文語ー"), ["😀", "\u212b", "\u2126", "\u0340", "\u0343"]]
    for _ in range(count):
        yield "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 10)))


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    config = json.loads((OUT.parent / "small" / "tokenizer.json").read_text())
    config["normalizer"] = {"type": "NFC"}
    config["pre_tokenizer"]["pretokenizers"] = [
        {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]
    size = 1 + max(config["model"]["vocab"].values())
    config["added_tokens"] += [
        {"id": size + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": normalized, "special": special}
        for i, (content, normalized, special) in enumerate(ADDED)]
    text = json.dumps(config, ensure_ascii=False, indent=1)
    (OUT / "tokenizer.json").write_text(text + "\n", encoding="utf-8", newline="\n")

    tokenizer = Tokenizer.from_str(text)
    plain = Tokenizer.from_str(json.dumps(dict(config, added_tokens=[])))
    nfc = normalizers.NFC()
    rows = []
    for string in HAND + list(random_strings(random.Random(0), 250)):
        ids = tokenizer.encode(string, add_special_tokens=False).ids
        plain_ids = plain.encode(string, add_special_tokens=False).ids
        form = nfc.normalize_str(string)
        assert plain.decode(plain_ids, skip_special_tokens=False) == form, string
        row = {"text": string, "ids": ids, "nfc": form}
        if plain_ids != ids:
            row["plain_ids"] = plain_ids
        rows.append(row)
    write_lines(OUT / "strings.jsonl", rows)
    write_lines(OUT / "forms.jsonl", [[s, nfc.normalize_str(s)] for s in random_strings(random.Random(1), 2000)])
    print(len(rows), "strings,", sum("plain_ids" in row for row in rows), "with plain_ids,",
          sum(row["nfc"] != row["text"] for row in rows), "that change")


if __name__ == "__main__":
    main()
