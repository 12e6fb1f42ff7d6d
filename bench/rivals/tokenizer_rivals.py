"""Encoding speed of `tokenizers` and `tiktoken` on the files that bench_tokenizer reads: MB/s, median of the rounds.

    python bench/rivals/tokenizer_rivals.py WHO TOKENIZER.json[.gz] RANKS.tiktoken.gz THREADS ROUNDS FILE.jsonl...

WHO is tokenizers or tiktoken. Both get the whole file as one batch of documents, the fastest way that each offers:
encode_batch_fast (no offsets) and encode_ordinary_batch; on one thread tiktoken encodes in a plain loop. tiktoken knows
one pattern only, so it gets the three of the published file as alternatives: a few texts come out otherwise, the work is
the same.
"""

import base64
import gzip
import json
import os
import pathlib
import statistics
import sys
import time


def read(path):
    data = pathlib.Path(path).read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()


def patterns(tokenizer_json):
    stages = json.loads(tokenizer_json)["pre_tokenizer"]["pretokenizers"]
    return [stage["pattern"]["Regex"] for stage in stages if stage["type"] == "Split"]


def ranks(path):
    lines = (line.split() for line in read(path).splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def encoder(who, tokenizer_path, ranks_path, threads):
    if who == "tokenizers":
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_str(json.dumps(dict(json.loads(read(tokenizer_path)), added_tokens=[])))
        return lambda texts: sum(len(e) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    import tiktoken
    table = ranks(ranks_path)
    # tiktoken wants the single bytes first; where they stand changes no merge.
    encoding = tiktoken.Encoding("deepseek", pat_str="|".join(patterns(read(tokenizer_path))), mergeable_ranks=table, special_tokens={})
    if threads == 1:
        return lambda texts: sum(len(encoding.encode_ordinary(text)) for text in texts)
    return lambda texts: sum(map(len, encoding.encode_ordinary_batch(texts, num_threads=threads)))


def main():
    who, tokenizer_path, ranks_path, threads, rounds = sys.argv[1:6]
    encode = encoder(who, tokenizer_path, ranks_path, int(threads))
    for path in sys.argv[6:]:
        with open(path, encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        size, speeds, tokens = sum(len(text.encode()) for text in texts), [], 0
        for _ in range(int(rounds)):
            begin = time.perf_counter()
            tokens = encode(texts)
            speeds.append(size / 1e6 / (time.perf_counter() - begin))
        print(json.dumps({"who": who, "file": pathlib.Path(path).name, "threads": int(threads),
                          "mb_per_second": round(statistics.median(speeds), 2), "bytes": size, "tokens": tokens}))


if __name__ == "__main__":
    main()
