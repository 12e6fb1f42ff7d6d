"""Writes src/data/tokenizer/unicode_classes.inc: the general category class of every code point.

The source is the regular-expression engine inside `tokenizers`, because equality with `tokenizers` is
what the table is for: the system's own Unicode library may be years older and would cut new letters
in another way. Run:  python tools/make_unicode_classes.py > src/data/tokenizer/unicode_classes.inc
"""

import tokenizers
from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 1 << 16


def members(pattern):
    """All code points that `pattern` (one character wide) matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    rest = set()
    for start in range(0, len(CODE_POINTS), CHUNK):
        text = "".join(map(chr, CODE_POINTS[start : start + CHUNK]))
        for piece, _ in split.pre_tokenize_str(text):
            rest.update(map(ord, piece))
    return set(CODE_POINTS) - rest


def main():
    # The order is that of enum CodePointClass in unicode.cc.
    classes = [r"\p{L}", r"\p{M}", r"\p{N}", r"\p{P}", r"\p{S}", r"\s"]
    class_of = dict.fromkeys(CODE_POINTS, 0)
    for index, pattern in enumerate(classes, start=1):
        for code_point in members(pattern):
            assert class_of[code_point] == 0, hex(code_point)
            class_of[code_point] = index
    starts = []
    previous = None
    for code_point in CODE_POINTS:
        if class_of[code_point] != previous:
            previous = class_of[code_point]
            starts.append(code_point << 3 | previous)
    print(f"// Made by tools/make_unicode_classes.py with tokenizers {tokenizers.__version__}; do not edit.")
    print("// Each number starts a range: code point << 3 | class (0 other, 1 L, 2 M, 3 N, 4 P, 5 S, 6 white space).")
    for i in range(0, len(starts), 12):
        print("".join(f"{s:#x}," for s in starts[i : i + 12]))


main()
