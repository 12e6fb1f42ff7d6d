"""Golden files for small number formats and for DeepSeek's FP8 checkpoints.

tests/golden/fp8.safetensors (16- and 8-bit tensors under their own safetensors dtypes)
  cast.values fp32 [n], finite: cast.e4m3, cast.e5m2, cast.bf16, cast.fp16: torch's casts. The sample holds
      every tie of both FP8 formats with its two fp32 neighbours, subnormals, signed zeros, random values
      over the whole range, and values beyond each format's maximum.
      Beyond the maximum: this torch (2.15, CPU) saturates E4M3 to 448, infinities too; earlier ones gave
      NaN beyond 464. E5M2 and fp16 overflow to infinity at the midpoint above their maximum.
      A caller of a saturating E5M2 or fp16 cast should skip |value| > 57344 resp. 65504.
  weight.NAME.source bf16, .codes F8_E4M3, .scale_inv fp32 [ceil/128, ceil/128], .bf16, the
      dequantised weight rounded once; NAME = w128x128, w140x200, w1x1, zeros
  tile.source fp32 [5,300]; tile.codes, tile.scale: 1x128 tiles as for activations;
      tile.pow2_codes, tile.pow2_scale: the same with scales rounded up to a power of two
  Rule: scale = max(amax, 1e-4) / 448 in fp32, code = e4m3(x / scale), edges are partial blocks.

tests/golden/models/fp8_v3/: a tiny checkpoint in DeepSeek's published FP8 layout with one MTP module
  (Linear layers of attention and experts in FP8 with weight_scale_inv; embedding, head, router, norms,
  eh_proj in bf16; e_score_correction_bias fp32). golden.safetensors: tokens; logits, mtp_logits_1, loss
  (of the main model) with weights dequantised to bf16 as DeepSeek's fp8_cast_bf16.py does, and
  logits_fp32_dequant, mtp_logits_1_fp32_dequant without that rounding. All computed in float64.

Run: .venv-oracle/bin/python tools/make_fp8_golden.py
"""

import torch

from golden_common import (GOLDEN, build_model, load_published, next_token_loss, published_shapes,
                           published_v3_config, random_state, transformers_in_float64, write_json,
                           write_tensors, yarn)
from mtp_reference import MIN_MARGIN, Reference, shapes_with_mtp

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
BLOCK = 128


def ties(dtype):
    """Every value of an FP8 format, every midpoint, and the fp32 neighbours of the midpoints."""
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    values = codes[codes.isfinite()].unique()
    middle = (values[1:] + values[:-1]) / 2
    infinity = torch.tensor(float("inf"))
    return torch.cat([values, middle, torch.nextafter(middle, infinity), torch.nextafter(middle, -infinity)])


def cast_sample(generator):
    exponent = torch.empty(2000).uniform_(-45, 38, generator=generator)
    wide = 10.0 ** exponent * torch.randn(2000, generator=generator).sign()
    near = torch.randn(3000, generator=generator) * 2.0 ** torch.randint(-18, 18, (3000,), generator=generator)
    bits16 = torch.randint(-32768, 32767, (500,), generator=generator).to(torch.int16).view(torch.float16).float()
    half_ties = bits16 * (1 + 2.0 ** -11)  # half a unit in the last place of fp16, and bf16 noise
    edges = torch.tensor([0.0, -0.0, 448.0, 463.9, 464.0, 464.1, 480.0, 57344.0, 61439.0, 61440.0, 65504.0,
                          65519.0, 65520.0, 1e30, 2.0 ** -9, 2.0 ** -10, 2.0 ** -16, 2.0 ** -17, 2.0 ** -24,
                          2.0 ** -25, 2.0 ** -126, 2.0 ** -149])
    sample = torch.cat([ties(E4M3), ties(E5M2), wide, near, half_ties, edges, -edges])
    return sample[sample.isfinite()]


def scales_of(x, rows, columns):
    """amax-based scale of each rows x columns block, and the same spread over the elements."""
    R, C = x.shape
    grid = torch.empty(-(-R // rows), -(-C // columns))
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            block = x[i * rows:(i + 1) * rows, j * columns:(j + 1) * columns]
            grid[i, j] = block.abs().max().clamp(min=1e-4) / 448.0
    return grid


def spread(grid, shape, rows, columns):
    return grid.repeat_interleave(rows, 0)[:shape[0]].repeat_interleave(columns, 1)[:, :shape[1]]


def quantise(x, rows=BLOCK, columns=BLOCK, power_of_two=False):
    grid = scales_of(x, rows, columns)
    if power_of_two:
        mantissa, exponent = torch.frexp(grid)  # grid = mantissa * 2^exponent, mantissa in [0.5, 1)
        grid = torch.ldexp(torch.ones_like(grid), exponent - (mantissa == 0.5).int())
    return (x / spread(grid, x.shape, rows, columns)).to(E4M3), grid


def dequantise(codes, grid):
    return codes.float() * spread(grid, codes.shape, BLOCK, BLOCK)


def make_formats():
    generator = torch.Generator().manual_seed(0)
    values = cast_sample(generator)
    tensors = {"cast.values": values, "cast.e4m3": values.to(E4M3), "cast.e5m2": values.to(E5M2),
               "cast.bf16": values.bfloat16(), "cast.fp16": values.half()}
    assert tensors["cast.e4m3"].float().abs().max() == 448  # saturates; no NaN in this torch
    weights = {f"w{r}x{c}": torch.randn(r, c, generator=generator) * torch.rand(r, 1, generator=generator) * 0.1
               for r, c in ((128, 128), (140, 200), (1, 1))}
    weights["zeros"] = torch.zeros(3, 130)
    for name, source in weights.items():
        source = source.bfloat16()  # half the bytes, and nothing is lost: quantisation starts from it
        codes, grid = quantise(source.float())
        tensors |= {f"weight.{name}.source": source, f"weight.{name}.codes": codes,
                    f"weight.{name}.scale_inv": grid, f"weight.{name}.bf16": dequantise(codes, grid).bfloat16()}
    tile = torch.randn(5, 300, generator=generator) * 10.0 ** torch.arange(-3.0, 2.0)[:, None]
    tile[2, :128] = 0
    tensors["tile.source"] = tile
    tensors["tile.codes"], tensors["tile.scale"] = quantise(tile, 1, BLOCK)
    tensors["tile.pow2_codes"], tensors["tile.pow2_scale"] = quantise(tile, 1, BLOCK, power_of_two=True)
    write_tensors(GOLDEN / "fp8.safetensors", tensors)
    print(f"fp8.safetensors: {len(values)} casts")


CONFIG = published_v3_config(
    hidden_size=136, intermediate_size=136, moe_intermediate_size=12, q_lora_rank=24, kv_lora_rank=24,
    num_attention_heads=4, num_key_value_heads=4, qk_nope_head_dim=24, qk_rope_head_dim=8, v_head_dim=24,
    n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, num_nextn_predict_layers=1,
    vocab_size=24, rope_scaling=yarn(), torch_dtype="bfloat16",
    auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config",
              "AutoModel": "modeling_deepseek.DeepseekV3Model",
              "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
    quantization_config={"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                         "weight_block_size": [128, 128]})


def is_fp8(name):
    if name.endswith("eh_proj.weight"):
        return False
    return name.endswith(("_proj.weight", "kv_a_proj_with_mqa.weight"))


def make_checkpoint():
    plain = {k: v for k, v in CONFIG.items() if k not in ("quantization_config", "auto_map")}
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        state = random_state(shapes_with_mtp(plain), generator)
        layer = f"model.layers.{plain['num_hidden_layers']}"
        copies = {f"{layer}.embed_tokens.weight": "model.embed_tokens.weight",
                  f"{layer}.shared_head.head.weight": "lm_head.weight"}
        state |= {copy: state[original].clone() for copy, original in copies.items()}
        disk, rounded, exact = {}, {}, {}
        for name, tensor in state.items():
            if is_fp8(name):
                disk[name], disk[f"{name}_scale_inv"] = quantise(tensor)
                back = dequantise(disk[name], disk[f"{name}_scale_inv"])
                rounded[name], exact[name] = back.bfloat16().double(), back.double()
            else:
                disk[name] = tensor if name.endswith("e_score_correction_bias") else tensor.bfloat16()
                rounded[name] = exact[name] = disk[name].double()
        tokens = torch.randint(0, plain["vocab_size"], (2, 24), generator=generator)
        reference = Reference(plain, rounded)
        logits, (mtp_logits,) = reference.forward(tokens)
        unrounded = Reference(plain, exact)
        logits_exact, (mtp_logits_exact,) = unrounded.forward(tokens)
        margin = min(reference.margin, unrounded.margin)
        if margin > MIN_MARGIN:
            break

    with transformers_in_float64(), torch.no_grad():
        model = build_model(plain, torch.float64)
        load_published(model, {n: rounded[n] for n in published_shapes(model)})
        error = (model(input_ids=tokens).logits - logits).abs().max().item()
    assert error < 1e-9, error

    folder = GOLDEN / "models" / "fp8_v3"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dict(sorted(CONFIG.items())))
    write_tensors(folder / "model.safetensors", disk)
    write_tensors(folder / "golden.safetensors", {
        "tokens": tokens, "logits": logits, "mtp_logits_1": mtp_logits, "loss": next_token_loss(logits, tokens),
        "logits_fp32_dequant": logits_exact, "mtp_logits_1_fp32_dequant": mtp_logits_exact},
        {"seed": seed, "router_margin": f"{margin:.2e}"})
    print(f"fp8_v3 seed {seed}: reference vs transformers {error:.1e}, bf16 rounding of the dequantised weights "
          f"moves logits by {(logits - logits_exact).abs().max().item():.1e}, margin {margin:.1e}")


if __name__ == "__main__":
    make_formats()
    make_checkpoint()
