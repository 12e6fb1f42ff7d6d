"""Logits of the FP8 recipe's forward products, computed by torch in float64 but for the recipe's own rounding.

tests/golden/models/fp8_v3/golden_recipe.safetensors, for the tokens of golden.safetensors there:
  logits, mtp_logits_1   every Linear of attention and experts multiplies E4M3 codes: inputs in tiles of 1 x 128, weights
                         as the checkpoint has them; dispatched inputs with power-of-two scales; the gate's weight on
                         SwiGLU's output, before the down projection. Nothing else is rounded.

Run after make_fp8_golden.py: .venv-oracle/bin/python tools/make_fp8_recipe_golden.py
"""

import json

import torch
from safetensors.torch import load_file

from golden_common import GOLDEN, write_tensors
from mtp_reference import Reference

F = torch.nn.functional
TILE = 128


def rows_in_tiles(x, power_of_two=False):
    """x after E4M3 in tiles of 1 x 128: scale in fp32, code = e4m3(x / scale)."""
    flat = x.float().flatten(0, -2)
    out = torch.empty_like(flat)
    for begin in range(0, flat.shape[1], TILE):
        tile = flat[:, begin:begin + TILE]
        scale = tile.abs().amax(1, keepdim=True).clamp(min=1e-4) / 448
        if power_of_two:
            scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).float()
        out[:, begin:begin + TILE] = (tile / scale).to(torch.float8_e4m3fn).float() * scale
    return out.view(x.shape).double()


class Fp8Weight:
    """A weight whose product with an input quantises the input; what is on its left is not quantised twice."""

    def __init__(self, values):
        self.values = values

    @property
    def T(self):
        return self

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul), function
        x, weight = args
        return rows_in_tiles(x) @ weight.values.T


class Recipe(Reference):
    def moe(self, layer, x):
        """As the reference, with the experts on dispatched codes."""
        E = self.config["n_routed_experts"]
        gates = torch.empty(*x.shape[:-1], E, dtype=torch.float64)
        # The reference's own router: one expert at a time gives ones and all else zeros, so the output is its gate.
        ffn = self.ffn
        for e in range(E):
            self.ffn = lambda name, y, e=e: torch.full_like(y, float(name.endswith(f".experts.{e}")))
            gates[..., e] = super().moe(layer, x)[..., 0]
        self.ffn = ffn
        out = self.ffn(f"{layer}.mlp.shared_experts", x)
        dispatched = rows_in_tiles(x, power_of_two=True)
        for e in range(E):
            w = lambda kind: self.weights[f"{layer}.mlp.experts.{e}.{kind}_proj.weight"]
            h = F.silu(dispatched @ w("gate").values.T) * (dispatched @ w("up").values.T) * gates[..., e, None]
            out = out + rows_in_tiles(h) @ w("down").values.T
        return out


def main():
    folder = GOLDEN / "models" / "fp8_v3"
    config = json.loads((folder / "config.json").read_text())
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        if tensor.dtype == torch.float8_e4m3fn:
            scale = stored[name + "_scale_inv"]
            scale = scale.repeat_interleave(TILE, 0)[:tensor.shape[0]].repeat_interleave(TILE, 1)[:, :tensor.shape[1]]
            weights[name] = Fp8Weight((tensor.float() * scale).double())
        else:
            weights[name] = tensor.double()
    tokens = load_file(folder / "golden.safetensors")["tokens"]
    with torch.no_grad():
        logits, mtp_logits = Recipe(config, weights).forward(tokens)
    exact = load_file(folder / "golden.safetensors")["logits_fp32_dequant"]
    print("against products without quantised inputs:", (logits - exact).norm().item() / exact.norm().item())
    write_tensors(folder / "golden_recipe.safetensors",
                  {"logits": logits.float(), "mtp_logits_1": mtp_logits[0].float()})


if __name__ == "__main__":
    main()
