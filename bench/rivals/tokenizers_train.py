"""Trains byte-level BPE with `tokenizers` on JSON lines, as `fathom tokenizer train` does, and prints the seconds.

    python bench/rivals/tokenizers_train.py PATTERNS.json VOCAB_SIZE OUT.json FILE.jsonl...

PATTERNS.json  a tokenizer.json whose pre-tokenizer and added tokens are taken, so that both learn the same thing
The texts are read before the clock starts; it may use all processors (RAYON_NUM_THREADS).
"""

import json
import sys
import time

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def main():
    pattern_path, vocab_size, out, *paths = sys.argv[1:]
    texts = []
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    with open(pattern_path, encoding="utf-8") as file:
        given = json.load(file)
    tokenizer = Tokenizer(models.BPE())
    fresh = json.loads(tokenizer.to_str())
    fresh["pre_tokenizer"] = given["pre_tokenizer"]
    tokenizer = Tokenizer.from_str(json.dumps(fresh))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=int(vocab_size), min_frequency=2, show_progress=False,
                                  special_tokens=[token["content"] for token in given["added_tokens"]],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    begin, cpu_begin = time.perf_counter(), time.process_time()
    tokenizer.train_from_iterator(texts, trainer)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    tokenizer.save(out)
    print(json.dumps({"who": "tokenizers", "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "bytes": sum(len(t.encode()) for t in texts),
                      "vocab_size": tokenizer.get_vocab_size()}))


if __name__ == "__main__":
    main()
