"""An independent float64 DeepSeek-V2/V3 with what transformers does not train: multi-token prediction,
the sequence-wise balance loss, and moe_layer_freq > 1. Written from the report, no class of transformers.

First it proves itself: its logits equal transformers' on every golden of make_model_goldens.py, and its
MTP logits equal those of transformers' own drafting module (inference only). Then it writes
tests/golden/models/{mtp_d1,mtp_d2,mtp_d1_prenorm,balance_v3,balance_v2,v3_layer_freq}/ with
  config.json, model.safetensors   published names; MTP modules are layers L, L+1, ...; their
                       embed_tokens.weight and shared_head.head.weight equal the shared ones
  golden.safetensors   tokens int64 [B,S], logits [B,S,V], mtp_logits_k [B,S-k,V] (row i predicts token
                       i+1+k), mtp_weight, balance_weight, loss_main, loss_mtp, loss_mtp_k,
                       loss_balance, loss, grad.<name> of `loss`
                       mtp_pre_norm int64 [], 1 if the modules take the hidden before model.norm

Definitions, with S given tokens, D depths, 0-based positions:
  module k runs on positions i = 0..S-1-k with the embedding of token i+k and the hidden of position i:
  for k = 1 the main model's, after model.norm (post_norm) or before it (pre_norm); for k > 1 module
  k-1's block output, before its shared_head.norm. RoPE position of row i is i.
  loss_main    mean cross-entropy over positions 0..S-2 of each row
  loss_mtp_k   mean over i = 0..S-2-k, label token i+1+k
  loss_mtp     mtp_weight / D * sum_k loss_mtp_k
  loss_balance balance_weight * sum over MoE layers (MTP modules' too, over the S-k tokens that those
               see) of the mean over sequences of sum_i f_i P_i; f from the top-k of the UNBIASED scores
               without groups, constant; P from scores normalised over all experts
  loss         loss_main + loss_mtp + loss_balance

Run after make_model_goldens.py: .venv-oracle/bin/python tools/mtp_reference.py
"""

import json
import math

import torch
from safetensors.torch import load_file
from transformers.modeling_layers import MtpModel

from golden_common import (GOLDEN, build_model, fuse_experts, load_published, next_token_loss,
                           published_shapes, published_v2_config, published_v3_config, random_state,
                           routing_margin, selection_margin, transformers_in_float64, write_json,
                           write_tensors, yarn)

F = torch.nn.functional
MIN_MARGIN = 1.5e-4


def rms_norm(x, weight, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def mscale(factor, m):
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0


class Reference:
    """Config dictionary (published form) and float64 weights by published name."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.balance = []   # per MoE layer run: the unweighted sequence-wise balance loss
        self.margin = math.inf

    # ---- rotary position, interleaved pairs (x0,x1), (x2,x3), ...

    def rope_tables(self, length):
        c, dim = self.config, self.config["qk_rope_head_dim"]
        pair = torch.arange(dim // 2, dtype=torch.float64)
        frequency = float(c["rope_theta"]) ** (-2 * pair / dim)
        scale, yarn_ = 1.0, c["rope_scaling"]
        if yarn_:
            def correction(rotations):
                original = yarn_["original_max_position_embeddings"]
                return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(c["rope_theta"]))
            low = max(math.floor(correction(yarn_["beta_fast"])), 0)
            high = min(math.ceil(correction(yarn_["beta_slow"])), dim - 1)
            ramp = ((pair - low) / (high - low if high != low else 0.001)).clamp(0, 1)
            frequency = frequency / yarn_["factor"] * ramp + frequency * (1 - ramp)
            scale = mscale(yarn_["factor"], yarn_.get("mscale", 1)) / mscale(yarn_["factor"], yarn_.get("mscale_all_dim", 0))
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return angle.cos() * scale, angle.sin() * scale

    @staticmethod
    def rotate(x, cos, sin):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    # ---- multi-head latent attention

    def attention(self, layer, x):
        c, w = self.config, lambda name: self.weights[f"{layer}.self_attn.{name}.weight"]
        B, S, _ = x.shape
        H, N, R, P = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        if c["q_lora_rank"] is None:
            q = x @ w("q_proj").T
        else:  # the two latent norms have epsilon 1e-6 whatever rms_norm_eps says, as in the published code
            q = rms_norm(x @ w("q_a_proj").T, w("q_a_layernorm"), 1e-6) @ w("q_b_proj").T
        q = q.view(B, S, H, N + R).transpose(1, 2)
        compressed = x @ w("kv_a_proj_with_mqa").T
        latent = rms_norm(compressed[..., :c["kv_lora_rank"]], w("kv_a_layernorm"), 1e-6)
        kv = (latent @ w("kv_b_proj").T).view(B, S, H, N + P).transpose(1, 2)
        cos, sin = self.rope_tables(S)
        k_rope = self.rotate(compressed[..., c["kv_lora_rank"]:], cos, sin)[:, None]
        scores = q[..., :N] @ kv[..., :N].transpose(2, 3) + self.rotate(q[..., N:], cos, sin) @ k_rope.transpose(2, 3)
        scale = (N + R) ** -0.5
        if c["rope_scaling"] and c["rope_scaling"].get("mscale_all_dim"):
            scale *= mscale(c["rope_scaling"]["factor"], c["rope_scaling"]["mscale_all_dim"]) ** 2
        future = torch.ones(S, S, dtype=torch.bool).triu(1)
        probabilities = (scores * scale).masked_fill(future, -math.inf).softmax(-1)
        return (probabilities @ kv[..., N:]).transpose(1, 2).reshape(B, S, H * P) @ w("o_proj").T

    # ---- feed-forward, router, experts

    def ffn(self, name, x):
        w = lambda kind: self.weights[f"{name}.{kind}_proj.weight"]
        return (F.silu(x @ w("gate").T) * (x @ w("up").T)) @ w("down").T

    def moe(self, layer, x):
        c, E, A = self.config, self.config["n_routed_experts"], self.config["num_experts_per_tok"]
        router = self.weights[f"{layer}.mlp.gate.weight"]
        logits = x @ router.T
        if c["scoring_func"] == "sigmoid":
            affinity, bias = logits.sigmoid(), self.weights[f"{layer}.mlp.gate.e_score_correction_bias"]
            choice = affinity + bias
        else:
            affinity, bias = logits.softmax(-1), None
            choice = affinity
        if c["topk_method"] != "greedy":
            grouped = choice.unflatten(-1, (c["n_group"], -1))
            best = grouped.topk(2, -1).values.sum(-1) if bias is not None else grouped.amax(-1)
            allowed = torch.zeros_like(best, dtype=torch.bool)
            allowed.scatter_(-1, best.topk(c["topk_group"], -1).indices, True)
            choice = grouped.masked_fill(~allowed[..., None], -math.inf).flatten(-2)
        chosen = choice.topk(A, -1).indices
        weight = affinity.gather(-1, chosen)
        if c["norm_topk_prob"]:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        gates = torch.zeros_like(affinity).scatter(-1, chosen, weight * c["routed_scaling_factor"])
        out = self.ffn(f"{layer}.mlp.shared_experts", x)
        for e in range(E):
            out = out + gates[..., e, None] * self.ffn(f"{layer}.mlp.experts.{e}", x)

        # Sequence-wise balance loss of this layer, mean over sequences, without its weight.
        share = torch.zeros_like(affinity).scatter(-1, affinity.topk(A, -1).indices, 1.0)
        f = share.mean(1).detach() * E / A
        P = (affinity / affinity.sum(-1, keepdim=True)).mean(1)
        self.balance.append((f * P).sum(-1).mean())
        with torch.no_grad():
            self.margin = min(self.margin, routing_margin(x, router, bias, c), selection_margin(affinity, A))
        return out

    # ---- blocks, model, modules

    def block(self, index, x, force_moe=False):
        c, layer = self.config, f"model.layers.{index}"
        norm = lambda name, y: rms_norm(y, self.weights[f"{layer}.{name}.weight"], c["rms_norm_eps"])
        x = x + self.attention(layer, norm("input_layernorm", x))
        is_moe = force_moe or (index >= c["first_k_dense_replace"] and index % c["moe_layer_freq"] == 0)
        y = norm("post_attention_layernorm", x)
        return x + (self.moe(layer, y) if is_moe else self.ffn(f"{layer}.mlp", y))

    def forward(self, tokens, mtp_hidden="post_norm"):
        """Main logits, and a list of MTP logits by depth."""
        c, w = self.config, self.weights
        eps, depth_0 = c["rms_norm_eps"], c["num_hidden_layers"]
        self.balance = []
        embedding = w["model.embed_tokens.weight"]
        head = embedding if c["tie_word_embeddings"] else w["lm_head.weight"]
        x = embedding[tokens]
        for index in range(depth_0):
            x = self.block(index, x)
        final = rms_norm(x, w["model.norm.weight"], eps)
        hidden = final if mtp_hidden == "post_norm" else x
        mtp_logits = []
        for k in range(1, c.get("num_nextn_predict_layers", 0) + 1):
            layer = f"model.layers.{depth_0 + k - 1}"
            joined = torch.cat([rms_norm(embedding[tokens[:, k:]], w[f"{layer}.enorm.weight"], eps),
                                rms_norm(hidden[:, :-1], w[f"{layer}.hnorm.weight"], eps)], dim=-1)
            hidden = self.block(depth_0 + k - 1, joined @ w[f"{layer}.eh_proj.weight"].T, force_moe=True)
            mtp_logits.append(rms_norm(hidden, w[f"{layer}.shared_head.norm.weight"], eps) @ head.T)
        return final @ head.T, mtp_logits

    def losses(self, tokens, mtp_hidden, mtp_weight, balance_weight):
        logits, mtp_logits = self.forward(tokens, mtp_hidden)
        out = {"logits": logits, "loss_main": next_token_loss(logits, tokens)}
        for k, depth_logits in enumerate(mtp_logits, start=1):
            out[f"mtp_logits_{k}"] = depth_logits
            out[f"loss_mtp_{k}"] = F.cross_entropy(depth_logits[:, :-1].flatten(0, 1), tokens[:, 1 + k:].flatten())
        zero = torch.zeros((), dtype=torch.float64)
        out["loss_mtp"] = sum((out[f"loss_mtp_{k}"] for k in range(1, len(mtp_logits) + 1)), zero) \
            * mtp_weight / max(len(mtp_logits), 1)
        out["loss_balance"] = sum(self.balance, zero) * balance_weight
        out["loss"] = out["loss_main"] + out["loss_mtp"] + out["loss_balance"]
        out["mtp_weight"] = torch.tensor(mtp_weight, dtype=torch.float64)
        out["balance_weight"] = torch.tensor(balance_weight, dtype=torch.float64)
        out["mtp_pre_norm"] = torch.tensor(int(mtp_hidden == "pre_norm"))
        return out


# ---------------------------------------------------------------------------- proofs

def old_form(config):
    """The published form of a configuration that transformers wrote."""
    if "rope_parameters" in config:
        rope = dict(config["rope_parameters"])
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    for key, value in (("moe_layer_freq", 1), ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        config.setdefault(key, value)
    return config


def check_against_transformers_goldens():
    for folder in sorted((GOLDEN / "models").glob("v[23]_*")):
        golden = load_file(folder / "golden.safetensors")
        if "generated" not in golden:
            continue  # ours, not transformers'
        config = old_form(json.loads((folder / "config.json").read_text()))
        weights = {n: t.double().requires_grad_() for n, t in load_file(folder / "model.safetensors").items()}
        logits, _ = Reference(config, weights).forward(golden["tokens"])
        loss = next_token_loss(logits, golden["tokens"])
        loss.backward()
        logit_error = (logits - golden["logits"]).abs().max().item()
        gradient_error = max(
            ((t.grad - golden[f"grad.{n}"]).abs().max() / t.grad.abs().max().clamp(min=1e-12)).item()
            for n, t in weights.items() if f"grad.{n}" in golden)
        print(f"reference vs transformers {folder.name:20s} logits {logit_error:.1e} gradients {gradient_error:.1e}")
        assert logit_error < 2e-6 and gradient_error < 2e-6


def check_against_transformers_mtp(config, weights, tokens, mtp_logits):
    """transformers drafts with MTP modules at inference. It feeds the normed hidden (post_norm), numbers
    positions from 1, which RoPE cannot see, and chains depths after shared_head.norm, so that only
    depth 1 is comparable as it stands."""
    with transformers_in_float64(), torch.no_grad():
        main = build_model(dict(config, num_nextn_predict_layers=1), torch.float64)
        load_published(main, {n: weights[n] for n in published_shapes(main)})
        mtp = MtpModel(main, 1).double().eval()
        mtp.config._attn_implementation = "eager"
        mtp.config._experts_implementation = "eager"
        layer = f"model.layers.{config['num_hidden_layers']}."
        ours = {n.removeprefix(layer): t for n, t in fuse_experts(weights).items() if n.startswith(layer)}
        names = {n: n.removeprefix("mtp_block.") for n in mtp.layers[0].state_dict()}
        names["post_norm.weight"] = "shared_head.norm.weight"
        mtp.layers[0].load_state_dict({theirs: ours[n] for theirs, n in names.items()}, strict=True)
        hidden = main.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        positions = torch.arange(1, tokens.shape[1])[None]
        hidden = mtp.forward_layer(0, hidden, positions, None, input_ids=tokens[:, 1:])
        error = (mtp._project_to_logits(hidden) - mtp_logits).abs().max().item()
    print(f"reference vs transformers' MTP drafting module: logits {error:.1e}")
    assert error < 1e-9


# ---------------------------------------------------------------------------- goldens

SMALL = {"num_experts_per_tok": 2}

# name -> (configuration, mtp_hidden, mtp_weight, balance_weight)
MODELS = {
    "mtp_d1": (published_v3_config(num_nextn_predict_layers=1, **SMALL), "post_norm", 0.3, 0.01),
    "mtp_d1_prenorm": (published_v3_config(num_nextn_predict_layers=1, **SMALL), "pre_norm", 0.3, 0.01),
    "mtp_d2": (published_v3_config(num_nextn_predict_layers=2, rope_scaling=yarn(original=32), **SMALL),
               "post_norm", 0.3, 0.01),
    "balance_v3": (published_v3_config(first_k_dense_replace=0, **SMALL), "post_norm", 0.0, 0.01),
    "balance_v2": (published_v2_config(topk_method="group_limited_greedy", n_group=4, topk_group=2, **SMALL),
                   "post_norm", 0.0, 0.01),
    # transformers ignores moe_layer_freq; DeepSeek's code makes layer i MoE only if i % freq == 0.
    "v3_layer_freq": (published_v3_config(num_hidden_layers=3, moe_layer_freq=2, **SMALL), "post_norm", 0.0, 0.0),
}


def shapes_with_mtp(config):
    """Published shapes: dense/MoE placement by our own rule, MTP layers after the last."""
    layers = config["num_hidden_layers"]
    depths = config.get("num_nextn_predict_layers", 0)
    is_dense = lambda i: i < layers and (i < config["first_k_dense_replace"] or i % config["moe_layer_freq"] != 0)
    wide = dict(config, num_hidden_layers=layers + depths + 1, first_k_dense_replace=0)
    dense = published_shapes(build_model(dict(wide, first_k_dense_replace=layers + depths + 1)))
    moe = published_shapes(build_model(wide))
    shapes = {n: s for n, s in moe.items() if not n.startswith("model.layers.")}
    for index in range(layers + depths):
        source = dense if is_dense(index) else moe
        shapes |= {n: s for n, s in source.items() if n.startswith(f"model.layers.{index}.")}
    D, V = config["hidden_size"], config["vocab_size"]
    for index in range(layers, layers + depths):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.{n}.weight": (D,) for n in ("enorm", "hnorm", "shared_head.norm")}
        shapes[f"{layer}.eh_proj.weight"] = (D, 2 * D)
        shapes |= {f"{layer}.{n}.weight": (V, D) for n in ("embed_tokens", "shared_head.head")}
    return shapes


def make(name, config, mtp_hidden, mtp_weight, balance_weight, batch=3, length=20):
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        state = random_state(shapes_with_mtp(config), generator)
        copies = [n for n in state if n.startswith("model.layers.") and
                  n.endswith((".shared_head.head.weight", ".embed_tokens.weight"))]
        for copy in copies:
            state[copy] = state["lm_head.weight" if "head" in copy else "model.embed_tokens.weight"].clone()
        tokens = torch.randint(0, config["vocab_size"], (batch, length), generator=generator)
        weights = {n: t.double().requires_grad_() for n, t in state.items() if n not in copies}
        reference = Reference(config, weights)
        out = reference.losses(tokens, mtp_hidden, mtp_weight, balance_weight)
        if reference.margin > MIN_MARGIN:
            break
    out["loss"].backward()
    gradients = {f"grad.{n}": t.grad for n, t in weights.items() if t.grad is not None}
    without = {n for n in weights if f"grad.{n}" not in gradients}
    assert all(n.endswith("e_score_correction_bias") for n in without), without
    if name == "mtp_d1":
        check_against_transformers_mtp(config, {n: t.detach() for n, t in weights.items()}, tokens,
                                       out["mtp_logits_1"].detach())

    folder = GOLDEN / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", state)
    write_tensors(folder / "golden.safetensors", {"tokens": tokens} | out | gradients, {
        "seed": seed, "router_margin": f"{reference.margin:.2e}"})
    print(f"{name:15s} seed {seed:3d} {sum(t.numel() for t in state.values()):6d} stored values  "
          f"margin {reference.margin:.1e}  " +
          "  ".join(f"{n} {out[n].item():.6f}" for n in ("loss", "loss_main", "loss_mtp", "loss_balance")))


def main():
    check_against_transformers_goldens()
    for name, arguments in MODELS.items():
        make(name, *arguments)


if __name__ == "__main__":
    main()
