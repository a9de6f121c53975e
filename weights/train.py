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

from minivideococa.world import SPECIAL, VOCABULARY, caption, draw, farther, sample_background, sample_objects

CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 8,
            "width": 160,
            "layers": 4,
            "head_width": 40,
            "attentional_pool": True,
            "attn_pooler_queries": 32,
            "attn_pooler_heads": 8,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": len(VOCABULARY),
            "width": 128,
            "heads": 4,
            "layers": 2,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {
            "context_length": 20,
            "vocab_size": len(VOCABULARY),
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": 64,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}
BATCH = 128
MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 2e-3, 1e-3, 0.05
STEPS = 4400
RATE = (0, 100, 2200, STEPS), (0.01, 1, 1, 0)  # the learning rates' factor, linear between these steps
COUNTS = (0.01, 0.27, 0.40, 0.32)  # how often a picture shows 0, 1, 2 or 3 objects
# In so many of the pictures each object stands up to twice as far away. At half its radius it covers a quarter of what it
# did, the share that an object visible in a quarter of a video's frames has of their tokens: so the pooler's attention
# must be sharp enough to find it.
FAR = 0.5
# With --dilution, from a step on, in so many of the steps the tokens of up to so many empty pictures stand behind each
# picture's own.
DILUTED_FROM, DILUTED, EMPTY = 3250, 0.6, 6
CAPTION_WEIGHT = 2.0  # CoCa's loss: contrastive + 2 x captioning (arXiv 2205.01917, section 3.2)


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
            torch.nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            torch.nn.init.normal_(
                block.attn.out_proj.weight, std=width**-0.5 * (2 * transformer.layers) ** -0.5
            )
            torch.nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            torch.nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * transformer.layers) ** -0.5)
    torch.nn.init.normal_(model.text_decoder.text_projection, std=model.text_decoder.width**-0.5)
    model.behind = torch.empty(
        1, 0, model.visual.transformer.width
    )  # tokens that the pooler sees behind a picture's own
    model.visual.attn_pool.register_forward_pre_hook(
        lambda module, args: torch.cat([args[0], model.behind.expand(len(args[0]), -1, -1)], dim=1)
    )
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
        torch.optim.AdamW(
            [{"params": others, "weight_decay": WEIGHT_DECAY}, {"params": undecayed, "weight_decay": 0.0}],
            lr=ADAM_RATE,
            betas=(0.9, 0.98),
        ),
    ]


def orthogonalised(
    update: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in float32: torch's rounds to bfloat16, which many CPUs only emulate: twenty times slower."""
    a, b, c = coefficients
    x = update.T if len(update) > update.shape[1] else update
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if len(update) > update.shape[1] else x


torch.optim._muon._zeropower_via_newtonschulz = orthogonalised


def batch(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels float32 [B, 3, 64, 64] and ids int64 [B, 20] of one step."""
    rng = np.random.default_rng([seed, step])
    word = {w: i for i, w in enumerate(VOCABULARY)}
    pixels, ids = torch.empty(BATCH, 3, 64, 64), np.zeros((BATCH, 20), np.int64)
    for i in range(BATCH):
        objects = sample_objects(rng, int(rng.choice(4, p=COUNTS)))
        if rng.random() < FAR:
            objects = farther(objects, rng)
        pixels[i] = standardised(draw(objects, sample_background(rng)))
        tokens = ["<start_of_text>", *caption(objects, rng).split(), "<end_of_text>"]
        ids[i, : len(tokens)] = [word[t] for t in tokens]
    return pixels, torch.from_numpy(ids)


def standardised(picture: np.ndarray) -> torch.Tensor:
    """A picture uint8 [64, 64, 3] as pixels float32 [3, 64, 64]."""
    mean, std = (np.float32(CONFIG["preprocess_cfg"][k]) for k in ("mean", "std"))
    return torch.from_numpy((picture / np.float32(255) - mean) / std).permute(2, 0, 1)


@torch.no_grad()
def dilute(model: CoCa, seed: int, step: int) -> None:
    """Put empty pictures behind those of a training step, or not: one sequence, as VideoCoCa makes one of a video's frames."""
    rng = np.random.default_rng([seed, step, 1])
    count = int(rng.integers(1, EMPTY + 1)) if rng.random() < DILUTED else 0
    pictures = [draw((), sample_background(rng)) for _ in range(count)]
    with sdpa_kernel(SDPBackend.MATH):
        tokens = [
            model.visual.transformer(model.visual._embeds(standardised(picture)[None]))
            for picture in pictures
        ]
    model.behind = torch.cat(tokens, dim=1) if count else model.behind[:, :0]


def losses(model: CoCa, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The contrastive and the captioning loss (nats a token) of a batch."""
    with sdpa_kernel(SDPBackend.MATH):
        out = model(pixels, ids)
    similarity = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    target = torch.arange(len(ids))
    contrastive = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    captioning = F.cross_entropy(out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0)
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
    parser.add_argument(
        "--until", type=int, default=STEPS, metavar="STEP", help="stop early, and keep what is there"
    )
    parser.add_argument(
        "--dilution",
        action="store_true",
        help="let the pooler see more tokens than a picture's: beyond VideoCoCa's condition, for comparison",
    )
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
    began = time.time()
    with open(args.out / "log.txt", "a") as log:
        for step in range(start, args.until):
            for opt, rates in zip(opts, base_rates, strict=True):
                for group, base in zip(opt.param_groups, rates, strict=True):
                    group["lr"] = base * float(np.interp(step, *RATE))
            if args.dilution and step >= DILUTED_FROM:
                dilute(model, args.seed, step)
            contrastive, captioning = losses(model, *batch(args.seed, step))
            (contrastive + CAPTION_WEIGHT * captioning).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            if (step + 1) % 50 == 0 or step + 1 == args.until:
                print(
                    f"step {step + 1} contrastive {contrastive:.3f} caption {captioning:.3f} "
                    f"scale {model.logit_scale.exp():.1f} "
                    f"images/s {(step + 1 - start) * BATCH / (time.time() - began):.0f}",
                    file=log,
                    flush=True,
                )
            if (step + 1) % 250 == 0 or step + 1 == args.until:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizers": [o.state_dict() for o in opts],
                        "step": step + 1,
                    },
                    state.with_suffix(".new"),
                )
                state.with_suffix(".new").replace(state)
    save_checkpoint(model, args.out)


if __name__ == "__main__":
    main()
