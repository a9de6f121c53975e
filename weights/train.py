"""Train the embedded tiny CoCa from scratch, on still images of the synthetic world and nothing else.

    pip install -e ".[train]"
    python weights/train.py --out weights/tiny

Training goes on where it stopped if the command is given again: the state is kept in OUT/state.pt, the losses in
OUT/log.txt. At the end OUT holds a checkpoint folder: config.json, model.safetensors (float16), tokenizer.json.
The images of step k follow from (seed, k) alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from minivideococa.world import SPECIAL, VOCABULARY, caption, draw, sample_background, sample_objects

CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 160, "layers": 4, "head_width": 40,
                       "attentional_pool": True, "attn_pooler_queries": 32, "attn_pooler_heads": 8,
                       "output_tokens": True},
        "text_cfg": {"context_length": 20, "vocab_size": len(VOCABULARY), "width": 128, "heads": 4, "layers": 2,
                     "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 20, "vocab_size": len(VOCABULARY), "width": 128, "heads": 4,
                           "layers": 2},
    },
    "preprocess_cfg": {"size": 64, "mean": [0.48145466, 0.4578275, 0.40821073],
                       "std": [0.26862954, 0.26130258, 0.27577711]},
}
BATCH = 128
MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 2e-3, 1e-3, 0.05
STEPS = 4700
RATE = (0, 100, 2420, 3250, STEPS), (0.01, 1, 1, 0.58, 0)      # the learning rates' factor, linear between these steps
# How often a picture shows 0, 1, 2 or 3 objects from a step on: fewer empty and more crowded ones than before, so that
# the decoder does not take a glimpse of empty background for nothing.
CROWDED, CROWDED_FROM = (0.01, 0.27, 0.40, 0.32), 2250
# From a step on, the pooler's queries are multiplied by a random number, so that it must find the objects with a
# softer attention than its own. A softmax over the tokens of many frames is softer than one over a picture's.
SOFTENED, SOFTENED_FROM = (0.65, 1.0), 3250
CAPTION_WEIGHT = 2.0                         # CoCa's loss: contrastive + 2 x captioning (arXiv 2205.01917, section 3.2)


def tokenizer_json() -> str:
    """A word-level tokenizer of the world's vocabulary, in the format of the `tokenizers` library."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.normalizer = normalizers.Replace(Regex("[.,;:!?]"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str(pretty=True)


def new_model() -> CoCa:
    """open_clip's CoCa with every parameter filled (its own initialisation leaves some of them as they come)."""
    model = CoCa(**CONFIG["model_cfg"])
    for transformer in (model.visual.transformer, model.text_decoder):
        width = transformer.width
        for block in [*transformer.resblocks, *getattr(transformer, "cross_attn", [])]:
            torch.nn.init.normal_(block.attn.in_proj_weight, std=width ** -0.5)
            torch.nn.init.normal_(block.attn.out_proj.weight, std=width ** -0.5 * (2 * transformer.layers) ** -0.5)
            torch.nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            torch.nn.init.normal_(block.mlp.c_proj.weight, std=width ** -0.5 * (2 * transformer.layers) ** -0.5)
    torch.nn.init.normal_(model.text_decoder.text_projection, std=model.text_decoder.width ** -0.5)
    model.softness = torch.ones(())
    model.visual.attn_pool.ln_q.register_forward_hook(lambda module, args, queries: queries * model.softness)
    return model


def optimizers(model: CoCa) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks and the pooler, AdamW for all else."""
    matrices, others, undecayed = [], [], []
    for name, p in model.named_parameters():
        if p.ndim == 2 and name.endswith("weight") and "embedding" not in name:
            matrices.append(p)
        else:
            (others if p.ndim >= 2 else undecayed).append(p)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": others, "weight_decay": WEIGHT_DECAY},
                           {"params": undecayed, "weight_decay": 0.0}], lr=ADAM_RATE, betas=(0.9, 0.98)),
    ]


def batch(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels float32 [B, 3, 64, 64] and ids int64 [B, 20] of one step."""
    rng = np.random.default_rng([seed, step])
    word = {w: i for i, w in enumerate(VOCABULARY)}
    mean, std = (np.float32(CONFIG["preprocess_cfg"][k]) for k in ("mean", "std"))
    pixels, ids = np.empty((BATCH, 64, 64, 3), np.float32), np.zeros((BATCH, 20), np.int64)
    for i in range(BATCH):
        objects = sample_objects(rng, int(rng.choice(4, p=CROWDED)) if step >= CROWDED_FROM else None)
        pixels[i] = (draw(objects, sample_background(rng)) / np.float32(255) - mean) / std
        tokens = ["<start_of_text>", *caption(objects, rng).split(), "<end_of_text>"]
        ids[i, :len(tokens)] = [word[t] for t in tokens]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(ids)


def soften(model: CoCa, seed: int, step: int) -> None:
    """Draw the factor on the pooler's queries for a training step. The checkpoint does not know of it."""
    rng = np.random.default_rng([seed, step, 1])
    model.softness.fill_(rng.uniform(*SOFTENED) if step >= SOFTENED_FROM else 1.0)


def losses(model: CoCa, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The contrastive and the captioning loss (nats a token) of a batch."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        out = model(pixels, ids)
    similarity = out["logit_scale"] * out["image_features"].float() @ out["text_features"].float().T
    target = torch.arange(len(ids))
    contrastive = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    captioning = F.cross_entropy(out["logits"].float().flatten(0, 1), out["labels"].flatten(), ignore_index=0)
    return contrastive, captioning


def save_checkpoint(model: CoCa, out: Path) -> None:
    """The checkpoint folder: weights in float16, configuration, tokenizer."""
    tensors = {name: t.detach().half().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (out / "tokenizer.json").write_text(tokenizer_json() + "\n")


def main() -> None:
    """Train from the start, or from OUT/state.pt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("weights/tiny"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--until", type=int, default=STEPS, metavar="STEP", help="stop early, and keep what is there")
    parser.add_argument("--compile", action="store_true", help="a quarter faster; needs a C++ compiler")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = new_model()
    opts = optimizers(model)
    base_rates = [[g["lr"] for g in opt.param_groups] for opt in opts]
    state, start = args.out / "state.pt", 0
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        for opt, s in zip(opts, saved["optimizers"], strict=True):
            opt.load_state_dict(s)
        start = saved["step"]
    forward = torch.compile(model) if args.compile else model
    began = time.time()
    with open(args.out / "log.txt", "a") as log:
        for step in range(start, args.until):
            for opt, rates in zip(opts, base_rates, strict=True):
                for group, base in zip(opt.param_groups, rates, strict=True):
                    group["lr"] = base * float(np.interp(step, *RATE))
            soften(model, args.seed, step)
            contrastive, captioning = losses(forward, *batch(args.seed, step))
            (contrastive + CAPTION_WEIGHT * captioning).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            if (step + 1) % 50 == 0 or step + 1 == args.until:
                print(f"step {step + 1} contrastive {contrastive:.3f} caption {captioning:.3f} "
                      f"scale {model.logit_scale.exp():.1f} "
                      f"images/s {(step + 1 - start) * BATCH / (time.time() - began):.0f}", file=log, flush=True)
            if (step + 1) % 250 == 0 or step + 1 == args.until:
                torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts],
                            "step": step + 1}, state.with_suffix(".new"))
                state.with_suffix(".new").replace(state)
    save_checkpoint(model, args.out)


if __name__ == "__main__":
    main()
