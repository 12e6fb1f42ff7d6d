#!/usr/bin/env python3
"""Writes tests/golden/two_row_groups.parquet with pyarrow: what src/data/text/document_reader_test.cc reads."""
import pathlib

import pyarrow
import pyarrow.parquet

folder = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
table = pyarrow.table({"id": [1, 2, 3, 4, 5], "text": ["one", 'zwei\nZeilen, "quoted"', None, "水深", ""]})
pyarrow.parquet.write_table(table, folder / "two_row_groups.parquet", row_group_size=3, compression="zstd")
