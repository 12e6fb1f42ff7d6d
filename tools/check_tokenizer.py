"""Checks `fathom tokenizer` against the `tokenizers` library and tiktoken's merging: every id of every text.

    python tools/check_tokenizer.py FATHOM TOKENIZER_DIR DATA_DIR [--files GLOB] [--random N] [--rank-mb MB] [--trained DIR] [--sabotage]

FATHOM         the program
TOKENIZER_DIR  tokenizer.json.gz and deepseek_base.tiktoken.gz; golden_encodings.jsonl.xz is checked too if it is there
DATA_DIR       all .jsonl.xz and .json.xz files below its folders corpora and sft; each string in them is a text
--files GLOB   only files of such names
--random N     as many random byte strings (default 1,000,000): half of them of bytes, half of characters of all planes
--rank-mb MB   distinct pieces of as much text (default 25) go to tiktoken's merging, piece by piece
--trained DIR  a folder that `fathom tokenizer train` wrote: tokenizers must load it and give the same ids
--sabotage     gives fathom a file whose first merge comes last: differences must be found, or the check checks nothing

How text enters: as JSON on both sides, so bytes that are not UTF-8 become U+FFFD by Python's rule (errors="replace")
before either sees them; fathom's own round trip of raw bytes is a test of the suite. Added tokens are off on both sides
(fathom without --special, tokenizers with its added_tokens left out), except for the golden file, which wants them on.
What comes back through `fathom tokenizer decode` must be the text.
"""

import argparse
import base64
import concurrent.futures
import gzip
import json
import lzma
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
from tokenizers import Tokenizer  # noqa: E402  (reads the variable above)

BATCH_BYTES = 4_000_000


class Failures:
    def __init__(self):
        self.count = 0

    def add(self, what, text, expected, found):
        self.count += 1
        if self.count <= 5:
            print(f"DIFFERENT ({what}): {text[:200]!r}\n  expected {expected[:40]}\n  found    {found[:40]}", file=sys.stderr)


def run_lines(fathom, arguments, objects):
    """One process of fathom for all the lines; the answers as objects."""
    lines = "\n".join(json.dumps(o, ensure_ascii=False) for o in objects)
    done = subprocess.run([fathom, "tokenizer", *arguments, "--jsonl"], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert len(answers) == len(objects), (len(answers), len(objects))
    return answers


def strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)


def texts_of(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        if path.name.endswith(".json.xz"):
            yield from strings_in(json.load(lines))
            return
        for line in lines:
            row = json.loads(line)
            for key in ("source", "licence", "lang"):
                row.pop(key, None)
            yield from strings_in(row)


def batches(texts):
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text.encode("utf-8", "replace")) + 30
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def compare(fathom, folder, reference, texts, what, failures):
    """Texts, bytes and tokens compared; fathom works on a batch while tokenizers does."""
    total = [0, 0, 0]

    def ours(batch):
        rows = run_lines(fathom, ["encode", "--tokenizer", folder], [{"text": t} for t in batch])
        return rows, run_lines(fathom, ["decode", "--tokenizer", folder], rows)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for batch in batches(texts):
            later = pool.submit(ours, batch)
            expected = [e.ids for e in reference.encode_batch_fast(batch, add_special_tokens=False)]
            rows, back = later.result()
            for text, ids, row, again in zip(batch, expected, rows, back):
                if row["ids"] != ids:
                    failures.add(what, text, ids, row["ids"])
                elif again["text"] != text:
                    failures.add(what + ", round trip", text, list(text), list(again["text"]))
                total[0] += 1
                total[1] += len(text.encode())
                total[2] += len(ids)
    return total


def random_texts(count):
    """Strings of 0 to 40 bytes or 0 to 16 characters, short pieces of what the pre-tokenizer tells apart among them."""
    rng = random.Random(1)
    salt = ["<｜", "｜>", " ", "  ", "\n", "\r\n", "\t", "'s", "1", "23", "中", "の", "・", "。", "e\u0301", "👩\u200d", "\u00a0", "the", "."]
    for i in range(count):
        if i % 2 == 0:
            data = rng.randbytes(rng.randrange(41))
            yield data.decode("utf-8", "replace")
            continue
        plane, out = rng.choice((0x80, 0x250, 0x3100, 0xD800, 0x20000, 0x110000)), []
        for _ in range(rng.randrange(17)):
            code = rng.randrange(plane)
            out.append(rng.choice(salt) if rng.random() < 0.3 or 0xD800 <= code < 0xE000 else chr(code))
        yield "".join(out)


def compare_ranks(fathom, published, ranks_path, reference, texts, budget, failures, scratch):
    """Every distinct piece of the texts, through tiktoken's merging over the raw ranks."""
    import tiktoken
    with gzip.open(ranks_path, "rt") as lines:
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}
    core = tiktoken.Encoding("pieces", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})._core_bpe
    pieces, size = set(), 0
    for text in texts:
        pieces.update(text[a:b] for _, (a, b) in reference.pre_tokenizer.pre_tokenize_str(text))
        size += len(text.encode())
        if size >= budget:
            break
    whole = dict(published, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": False})
    path = scratch / "pieces.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    pieces = sorted(pieces)
    for batch in batches(pieces):
        rows = run_lines(fathom, ["encode", "--tokenizer", str(path)], [{"text": p} for p in batch])
        for piece, row in zip(batch, rows):
            expected = core.encode_single_piece(piece.encode())
            if expected != row["ids"]:
                failures.add("tiktoken ranks", piece, expected, row["ids"])
    return len(pieces), size


def main():
    parser = argparse.ArgumentParser()
    for name in ("fathom", "tokenizer_dir", "data_dir"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--files", default="*")
    parser.add_argument("--random", type=int, default=1_000_000)
    parser.add_argument("--rank-mb", type=float, default=25)
    parser.add_argument("--trained", type=pathlib.Path)
    parser.add_argument("--sabotage", action="store_true")
    arguments = parser.parse_args()
    fathom, failures = str(arguments.fathom), Failures()
    published = json.loads(gzip.decompress((arguments.tokenizer_dir / "tokenizer.json.gz").read_bytes()))
    reference = Tokenizer.from_str(json.dumps(dict(published, added_tokens=[])))
    files = sorted(p for folder in ("corpora", "sft") for p in (arguments.data_dir / folder).glob(arguments.files) if p.suffix == ".xz")
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        ours = str(arguments.tokenizer_dir / "tokenizer.json.gz")
        if arguments.sabotage:
            merges = published["model"]["merges"]
            merges.append(merges.pop(0))
            ours = str(scratch / "sabotaged.json")
            pathlib.Path(ours).write_text(json.dumps(published), encoding="utf-8")
        if arguments.trained:
            ours = str(arguments.trained)
            loaded = json.loads((arguments.trained / "tokenizer.json").read_text(encoding="utf-8"))
            reference = Tokenizer.from_str(json.dumps(dict(loaded, added_tokens=[])))
        print("| text | strings | bytes | tokens | seconds |\n| --- | ---: | ---: | ---: | ---: |")
        sums = [0, 0, 0]

        def row(label, total, begin):
            for i, part in enumerate(total):
                sums[i] += part
            print("| {} | {:,} | {:,} | {:,} | {:.0f} |".format(label, *total, time.time() - begin), flush=True)

        for path in files:
            begin = time.time()
            row(path.name, compare(fathom, ours, reference, texts_of(path), path.name, failures), begin)
        begin = time.time()
        row("random byte strings", compare(fathom, ours, reference, random_texts(arguments.random), "random", failures), begin)
        print("| all | {:,} | {:,} | {:,} | |".format(*sums))
        golden = arguments.tokenizer_dir / "golden_encodings.jsonl.xz"
        if golden.exists() and not arguments.trained:
            with lzma.open(golden, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            answers = run_lines(fathom, ["encode", "--special", "--tokenizer", ours], [{"text": r["text"]} for r in rows])
            for wanted, got in zip(rows, answers):
                if wanted["ids"] != got["ids"]:
                    failures.add("golden encodings", wanted["text"], wanted["ids"], got["ids"])
            print(f"golden encodings: {len(rows):,} lines")
        if not arguments.trained and arguments.rank_mb > 0:
            every = (text for path in files for i, text in enumerate(texts_of(path)) if i % 5 == 0)
            count, size = compare_ranks(fathom, published, arguments.tokenizer_dir / "deepseek_base.tiktoken.gz", reference, every,
                                        arguments.rank_mb * 1e6, failures, scratch)
            print(f"tiktoken's merging of the raw ranks: {count:,} distinct pieces of {size:,} bytes")
    print(f"{failures.count:,} differences")
    return 1 if failures.count else 0


if __name__ == "__main__":
    sys.exit(main())
