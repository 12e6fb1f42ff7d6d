"""Does a checkpoint written by Fathom load in transformers, whole and with nothing left over, and give the
same logits?

Loads DIR (config.json, model.safetensors or shards with index) with transformers' class for its model_type,
eager attention, in float32, and fails on
  - missing keys, mismatched shapes, or unexpected keys,
  - an MTP layer that is incomplete: transformers has no place for MTP layers in its main model. Its V3 class
    silently ignores `model.layers.61.*` only; in a smaller model the MTP layers show up as unexpected. Here
    unexpected keys of layers L .. L+num_nextn_predict_layers-1 are allowed if, and only if, every such layer
    has exactly the published tensors (counted in the report as "mtp_keys"),
  - logits that differ from `logits` in O.safetensors by more than --tolerance.
For MTP depth 1 `mtp_logits_1`, if present, is compared too, with transformers' own drafting module.

Run: .venv-oracle/bin/python tools/check_loads_in_transformers.py DIR --logits O.safetensors --tokens T.json
T.json is a list of equally long lists of token ids, O.safetensors what `fathom logits` wrote for it.
--logits and --tokens may be left out to check only the keys. Prints one JSON object; exit status 0 or 1.
"""

import argparse
import json
import pathlib
import re
import sys

import torch
from safetensors import safe_open
from transformers.modeling_layers import MtpModel

from golden_common import CLASSES, fuse_experts

MTP_OWN = {"embed_tokens.weight", "enorm.weight", "hnorm.weight", "eh_proj.weight",
           "shared_head.norm.weight", "shared_head.head.weight"}


def stored_files(folder):
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [folder / "model.safetensors"]


def stored_tensors(folder):
    tensors = {}
    for path in stored_files(folder):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def check_mtp_layers(names, config):
    """Problems with the MTP layers' sets of names, and how many tensors those hold."""
    layers, depths = config["num_hidden_layers"], config.get("num_nextn_predict_layers", 0)
    tail = lambda i: {n.removeprefix(f"model.layers.{i}.") for n in names if n.startswith(f"model.layers.{i}.")}
    problems, count = [], 0
    expected_block = tail(layers - 1)  # the last main layer; MoE in every published model
    for index in range(layers, layers + depths):
        found = tail(index)
        count += len(found)
        if found != expected_block | MTP_OWN:
            problems.append(f"layer {index} (MTP) differs from a published one by "
                            f"{sorted(found ^ (expected_block | MTP_OWN))[:8]}")
    return problems, count


def mtp_logits(model, tensors, tokens):
    """Depth-1 logits by transformers' drafting module, its weights set by hand: its own loader looks for
    layer 61 only. It feeds the hidden after model.norm."""
    mtp = MtpModel(model, 1).eval()
    mtp.config._attn_implementation = mtp.config._experts_implementation = "eager"
    layer = f"model.layers.{model.config.num_hidden_layers}."
    ours = fuse_experts({n: t.float() for n, t in tensors.items() if n.startswith(layer)})
    ours = {n.removeprefix(layer): t for n, t in ours.items()}
    names = {n: n.removeprefix("mtp_block.") for n in mtp.layers[0].state_dict()}
    names["post_norm.weight"] = "shared_head.norm.weight"
    mtp.layers[0].load_state_dict({theirs: ours[n] for theirs, n in names.items()}, strict=True)
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    positions = torch.arange(1, tokens.shape[1])[None]
    return mtp._project_to_logits(mtp.forward_layer(0, hidden, positions, None, input_ids=tokens[:, 1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--logits", type=pathlib.Path)
    parser.add_argument("--tokens", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()

    config = json.loads((arguments.folder / "config.json").read_text())
    _, model_class = CLASSES[config["model_type"]]
    try:
        model, info = model_class.from_pretrained(
            arguments.folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
            output_loading_info=True)
    except (RuntimeError, ValueError, OSError) as error:  # e.g. an expert's matrix missing from its stack
        print(json.dumps({"ok": False, "problems": [f"transformers refuses: {error}"]}))
        sys.exit(1)
    tensors = stored_tensors(arguments.folder)
    layers, depths = config["num_hidden_layers"], config.get("num_nextn_predict_layers", 0)

    def is_mtp(name):
        match = re.match(r"model\.layers\.(\d+)\.", name)
        return match is not None and layers <= int(match.group(1)) < layers + depths

    problems, mtp_keys = check_mtp_layers(tensors, config)
    unexpected = sorted(n for n in info["unexpected_keys"] if not is_mtp(n))
    problems += [f"missing: {n}" for n in sorted(info["missing_keys"])]
    problems += [f"unexpected: {n}" for n in unexpected]
    problems += [f"mismatched: {n}" for n in info["mismatched_keys"]]
    report = {"parameters": sum(p.numel() for p in model.parameters()), "tensors": len(tensors), "mtp_keys": mtp_keys}

    if arguments.logits and not problems:
        tokens = torch.tensor(json.loads(arguments.tokens.read_text()))
        with safe_open(arguments.logits, framework="pt") as file, torch.no_grad():
            ours = {name: file.get_tensor(name) for name in file.keys()}
            theirs = {"logits": model(input_ids=tokens, use_cache=False).logits}
            if depths and "mtp_logits_1" in ours:
                theirs["mtp_logits_1"] = mtp_logits(model, tensors, tokens)
        for name, expected in theirs.items():
            if ours[name].shape != expected.shape:
                problems.append(f"{name}: shape {tuple(ours[name].shape)}, expected {tuple(expected.shape)}")
                continue
            error = (ours[name].float() - expected).abs().max().item()
            report[f"{name}_max_difference"] = error
            if not error <= arguments.tolerance:  # also catches NaN
                problems.append(f"{name}: differ by {error:.3e}, tolerance {arguments.tolerance:.1e}")
    report |= {"ok": not problems, "problems": problems}
    print(json.dumps(report))
    sys.exit(0 if not problems else 1)


if __name__ == "__main__":
    main()
