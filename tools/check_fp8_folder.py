"""An FP8 folder written by `fathom quantize` against torch: dequantised (code * scale, rounded to bf16) it must
equal what `fathom convert --to bf16` makes of it, bit for bit, and requantising the original weights with torch must give
the stored codes and scales.

  fathom quantize --model DIR --to fp8-block --out FP8
  fathom convert --model FP8 --to bf16 --out BACK
  .venv-oracle/bin/python tools/check_fp8_folder.py DIR FP8 BACK
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

BLOCK = 128


def tensors(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})
    return found


def spread(scale, shape):
    return scale.repeat_interleave(BLOCK, 0)[:shape[0]].repeat_interleave(BLOCK, 1)[:, :shape[1]]


def blocks(weight):
    rows, cols = weight.shape
    padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK)
    padded[:rows, :cols] = weight.abs()
    return padded.view(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).amax((1, 3))


def main():
    original, fp8, back = (tensors(folder) for folder in sys.argv[1:4])
    config = json.loads((Path(sys.argv[2]) / "config.json").read_text())
    assert config["quantization_config"]["weight_block_size"] == [BLOCK, BLOCK], config["quantization_config"]
    checked = 0
    for name, weight in fp8.items():
        if weight.dtype != torch.float8_e4m3fn:
            continue
        scale = fp8[name + "_scale_inv"]
        values = (weight.float() * spread(scale, weight.shape)).bfloat16()
        assert torch.equal(values.view(torch.int16), back[name].view(torch.int16)), f"{name} dequantised"
        source = original[name].float()
        want = blocks(source).clamp(min=1e-4) / 448
        assert torch.equal(want, scale), f"{name} scales"
        codes = (source / spread(want, source.shape)).to(torch.float8_e4m3fn)
        assert torch.equal(codes.view(torch.uint8), weight.view(torch.uint8)), f"{name} codes"
        checked += 1
    assert checked > 0, "no FP8 weight in the folder"
    print(f"{checked} FP8 weights: codes, scales and dequantised values have torch's bits")


if __name__ == "__main__":
    main()
