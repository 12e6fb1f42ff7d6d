"""The rival of the training-speed table: transformers' DeepseekV3ForCausalLM under torch, on the CPU.

Trains a model of the given config.json on random tokens (bf16 weights, eager attention, torch AdamW) and
prints one JSON object with the median tokens_per_second over the steps after warm-up. A step is forward,
loss, backward, AdamW and zeroing the gradients. Fairness: --experts-impl auto times two steps of each of
transformers' expert implementations that run here and goes on with the fastest, AdamW runs in its fastest
CPU form (fused), and --attention sdpa can be asked for instead of eager. MTP layers are not trained by
transformers: num_nextn_predict_layers is set to 0, so give our side a configuration without MTP too.

Run: .venv-oracle/bin/python bench/rivals/torch_train.py --config config.json --threads 2 --batch 4 --seq 256 --steps 10
"""

import argparse
import json
import os
import pathlib
import statistics
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=pathlib.Path, required=True, help="config.json of a DeepSeek-V3 model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--seq", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="eager")
    parser.add_argument("--experts-impl", choices=["auto", "eager", "grouped_mm", "batched_mm"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build(arguments, experts_impl):
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
    torch.manual_seed(arguments.seed)
    settings = json.loads(arguments.config.read_text())
    settings.pop("quantization_config", None)
    settings["num_nextn_predict_layers"] = 0
    config = DeepseekV3Config.from_dict(settings)
    model = DeepseekV3ForCausalLM._from_config(
        config, attn_implementation=arguments.attention, experts_implementation=experts_impl,
        dtype=getattr(torch, arguments.dtype)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
                                  fused=True)
    return model, optimizer


def timed_steps(arguments, model, optimizer, count):
    import torch
    generator = torch.Generator().manual_seed(arguments.seed)
    vocabulary, seconds, loss = model.config.vocab_size, [], None
    for _ in range(count):
        tokens = torch.randint(0, vocabulary, (arguments.batch, arguments.seq), generator=generator)
        start = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    return seconds, loss.item()


def fastest_experts(arguments):
    """Seconds of the second step with each implementation; those that fail here are reported as text."""
    trial = {}
    for name in ("eager", "grouped_mm", "batched_mm"):
        try:
            seconds, _ = timed_steps(arguments, *build(arguments, name), 2)
            trial[name] = seconds[-1]
        except (RuntimeError, ValueError, MemoryError) as error:
            trial[name] = f"does not run: {str(error).splitlines()[0][:80]}"
    ran = {name: value for name, value in trial.items() if isinstance(value, float)}
    return min(ran, key=ran.get), trial


def main():
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported
    import torch
    import transformers
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    experts_impl, trial = arguments.experts_impl, None
    if experts_impl == "auto":
        experts_impl, trial = fastest_experts(arguments)
    model, optimizer = build(arguments, experts_impl)
    seconds, loss = timed_steps(arguments, model, optimizer, arguments.warmup + arguments.steps)
    seconds = seconds[arguments.warmup:]
    tokens = arguments.batch * arguments.seq
    rates = sorted(tokens / s for s in seconds)
    print(json.dumps({
        "tokens_per_second": statistics.median(rates), "tokens_per_second_min": rates[0],
        "tokens_per_second_max": rates[-1], "step_seconds": statistics.median(seconds), "loss": loss,
        "parameters": sum(p.numel() for p in model.parameters()), "experts_impl": experts_impl,
        "experts_trial_step_seconds": trial, "attention": arguments.attention, "dtype": arguments.dtype,
        "threads": arguments.threads, "batch": arguments.batch, "seq": arguments.seq, "steps": arguments.steps,
        "torch": torch.__version__, "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
