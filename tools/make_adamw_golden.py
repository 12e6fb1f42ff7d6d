"""Golden optimizer run: 50 steps of torch.optim.AdamW (beta 0.9/0.95, eps 1e-8, weight decay 0.1,
a learning rate that changes every step), in float64 and in float32.

tests/golden/adamw.safetensors holds, for each of the tensors NAME (a [7,5], b [13], c [3,4,2]):
  NAME.initial fp32; NAME.gradients fp32 [50,...]; NAME.after64 float64 [50,...] and NAME.after32
  fp32 [50,...], the parameter after each step; NAME.m64, NAME.v64 float64 and NAME.m32, NAME.v32
  fp32, both moments after the last step
and lr float64 [50], hyper float64 [4] = beta1, beta2, eps, weight_decay.
Gradients span many magnitudes and some are zero; decay applies to all three tensors, also the 1-D one.

Run: .venv-oracle/bin/python tools/make_adamw_golden.py
"""

import pathlib

import torch
from safetensors.torch import save_file

STEPS, BETAS, EPS, DECAY = 50, (0.9, 0.95), 1e-8, 0.1
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "adamw.safetensors"


def run(initial, gradients, rates, dtype):
    parameters = {name: torch.nn.Parameter(value.to(dtype).clone()) for name, value in initial.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, betas=BETAS, eps=EPS,
                                  weight_decay=DECAY, foreach=False)
    after = {name: [] for name in parameters}
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rates[step].item()
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step].to(dtype)
        optimizer.step()
        for name, parameter in parameters.items():
            after[name].append(parameter.detach().clone())
    moments = {name: optimizer.state[parameter] for name, parameter in parameters.items()}
    return {name: torch.stack(values) for name, values in after.items()}, moments


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (7, 5), "b": (13,), "c": (3, 4, 2)}
    initial = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    gradients = {}
    for name, shape in shapes.items():
        magnitude = 10.0 ** torch.empty(STEPS, *shape).uniform_(-6, 1, generator=generator)
        sign = torch.randn(STEPS, *shape, generator=generator)
        kept = torch.rand(STEPS, *shape, generator=generator) > 0.05
        gradients[name] = sign * magnitude * kept
    step = torch.arange(STEPS, dtype=torch.float64)
    # Linear warm-up over ten steps, then a cosine down to a tenth.
    rates = 2.2e-2 * torch.where(step < 10, (step + 1) / 10, 0.55 + 0.45 * torch.cos(torch.pi * (step - 9) / 40))

    tensors = {"lr": rates, "hyper": torch.tensor([*BETAS, EPS, DECAY], dtype=torch.float64)}
    for suffix, dtype in (("64", torch.float64), ("32", torch.float32)):
        after, moments = run(initial, gradients, rates, dtype)
        for name in shapes:
            tensors[f"{name}.initial"] = initial[name]
            tensors[f"{name}.gradients"] = gradients[name]
            tensors[f"{name}.after{suffix}"] = after[name]
            tensors[f"{name}.m{suffix}"] = moments[name]["exp_avg"]
            tensors[f"{name}.v{suffix}"] = moments[name]["exp_avg_sq"]
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, str(OUT), {"format": "pt"})
    OUT.chmod(0o644)
    for name in shapes:
        noise = (tensors[f"{name}.after32"] - tensors[f"{name}.after64"]).abs().max().item()
        print(f"{name}: float32 differs from float64 by at most {noise:.1e}")


if __name__ == "__main__":
    main()
