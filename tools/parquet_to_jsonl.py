#!/usr/bin/env python3
"""Writes one column of Parquet files as JSONL that `fathom data prepare` reads.

    tools/parquet_to_jsonl.py [--column text] part-0.parquet part-1.parquet > corpus.jsonl

Needs pyarrow (pip install pyarrow). Not needed where the program was built with FATHOM_ARROW_DIR.
"""
import argparse
import json
import sys

import pyarrow.parquet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", default="text")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    for path in options.files:
        file = pyarrow.parquet.ParquetFile(path)
        if options.column not in file.schema_arrow.names:
            sys.exit(f"{path}: found the columns {', '.join(file.schema_arrow.names)}, expected one named {options.column}")
        for batch in file.iter_batches(batch_size=1024, columns=[options.column]):
            for text in batch.column(0).to_pylist():
                if isinstance(text, bytes):
                    text = text.decode("utf-8", errors="replace")
                sys.stdout.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
