"""Train the embedded tiny CoCa from scratch, on still images of the synthetic world only.

    pip install -e ".[train]"
    python weights/train.py --out weights/tiny

An interrupted training is resumed by the same command: the state is in OUT/state.pt, the losses are in
OUT/log.txt. At the end OUT is a checkpoint folder: config.json, model.safetensors (float16), tokenizer.json.
The images of step k depend on (seed, k) only.
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
RATE = (0, 100, 2200, STEPS), (0.01, 1, 1, 0)  # factor of the learning rates, linear between these steps
COUNTS = (0.01, 0.27, 0.40, 0.32)  # probabilities of 0, 1, 2 and 3 objects in an image
# Probability that the objects of an image are up to twice as far away. At half its radius an object covers a
# quarter of its area, the share of the tokens that belong to an object visible in a quarter of a video's
# frames: the pooler's attention has to be sharp enough to find it.
FAR = 0.5
# With --dilution: the first diluted step, the probability of dilution in a step, and the most empty images
# whose tokens are appended to those of each image.
DILUTED_FROM, DILUTED, EMPTY = 3250, 0.6, 6
CAPTION_WEIGHT = 2.0  # CoCa's loss: contrastive + 2 x captioning (arXiv 2205.01917, section 4.1)


def tokenizer_json() -> str:
    """Return a word-level tokenizer of the synthetic world's vocabulary, in the `tokenizers` format."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.normalizer = normalizers.Replace(Regex("[.,;:!?]"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str(pretty=True)


def new_model() -> CoCa:
    """Return open_clip's CoCa with every parameter initialized: open_clip leaves some uninitialized."""
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
    # tokens [1, M, W] appended to those of each image before pooling
    model.appended = torch.empty(1, 0, model.visual.transformer.width)
    model.visual.attn_pool.register_forward_pre_hook(
        lambda module, args: torch.cat([args[0], model.appended.expand(len(args[0]), -1, -1)], dim=1)
    )
    return model


def optimizers(model: CoCa) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and the pooler, AdamW for all other parameters."""
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


def orthogonalize(
    update: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Run Muon's Newton-Schulz iteration in float32.

    torch's own uses bfloat16, which many CPUs emulate and which is twenty times slower there.
    """
    a, b, c = coefficients
    x = update.T if len(update) > update.shape[1] else update
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if len(update) > update.shape[1] else x


torch.optim._muon._zeropower_via_newtonschulz = orthogonalize


def batch(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels float32 [B, 3, 64, 64] and ids int64 [B, 20] of one step."""
    rng = np.random.default_rng([seed, step])
    word = {w: i for i, w in enumerate(VOCABULARY)}
    pixels, ids = torch.empty(BATCH, 3, 64, 64), np.zeros((BATCH, 20), np.int64)
    for i in range(BATCH):
        objects = sample_objects(rng, int(rng.choice(4, p=COUNTS)))
        if rng.random() < FAR:
            objects = farther(objects, rng)
        pixels[i] = normalize(draw(objects, sample_background(rng)))
        tokens = ["<start_of_text>", *caption(objects, rng).split(), "<end_of_text>"]
        ids[i, : len(tokens)] = [word[t] for t in tokens]
    return pixels, torch.from_numpy(ids)


def normalize(image: np.ndarray) -> torch.Tensor:
    """Normalize an image uint8 [64, 64, 3] to pixels float32 [3, 64, 64]."""
    mean, std = (np.float32(CONFIG["preprocess_cfg"][k]) for k in ("mean", "std"))
    return torch.from_numpy((image / np.float32(255) - mean) / std).permute(2, 0, 1)


@torch.no_grad()
def dilute(model: CoCa, seed: int, step: int) -> None:
    """Append the tokens of a random number of empty images, maybe none, to those of each image of a step.

    They form one sequence, as the tokens of a video's frames do in VideoCoCa.
    """
    rng = np.random.default_rng([seed, step, 1])
    count = int(rng.integers(1, EMPTY + 1)) if rng.random() < DILUTED else 0
    images = [draw((), sample_background(rng)) for _ in range(count)]
    with sdpa_kernel(SDPBackend.MATH):
        tokens = [model.visual.transformer(model.visual._embeds(normalize(image)[None])) for image in images]
    model.appended = torch.cat(tokens, dim=1) if count else model.appended[:, :0]


def losses(model: CoCa, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contrastive loss and the captioning loss, in nats per token, of a batch."""
    with sdpa_kernel(SDPBackend.MATH):
        out = model(pixels, ids)
    similarity = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    target = torch.arange(len(ids))
    contrastive = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    captioning = F.cross_entropy(out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0)
    return contrastive, captioning


def save_checkpoint(model: CoCa, out: Path) -> None:
    """Write a checkpoint folder: weights in float16, configuration, tokenizer."""
    tensors = {name: t.detach().half().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (out / "tokenizer.json").write_text(tokenizer_json() + "\n")


def set_learning_rates(opts: list[torch.optim.Optimizer], base_rates: list[list[float]], step: int) -> None:
    """Set the learning rates of one step."""
    for opt, rates in zip(opts, base_rates, strict=True):
        for group, base in zip(opt.param_groups, rates, strict=True):
            group["lr"] = base * float(np.interp(step, *RATE))


def train_step(
    model: CoCa, opts: list[torch.optim.Optimizer], pixels: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Update the parameters on one batch and return its two losses."""
    contrastive, captioning = losses(model, pixels, ids)
    (contrastive + CAPTION_WEIGHT * captioning).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
        opt.zero_grad()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    return contrastive, captioning


def restore_state(path: Path, model: CoCa, opts: list[torch.optim.Optimizer]) -> int:
    """Restore model and optimizers from a file, if it exists, and return the next step."""
    if not path.exists():
        return 0
    saved = torch.load(path)
    model.load_state_dict(saved["model"])
    for opt, state in zip(opts, saved["optimizers"], strict=True):
        opt.load_state_dict(state)
    return saved["step"]


def save_state(path: Path, model: CoCa, opts: list[torch.optim.Optimizer], step: int) -> None:
    """Write the state after `step` steps, as a whole or not at all."""
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts], "step": step}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("weights/tiny"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--until", type=int, default=STEPS, metavar="STEP", help="stop early and write the checkpoint"
    )
    parser.add_argument(
        "--dilution",
        action="store_true",
        help="append the tokens of empty images to those of each image: beyond VideoCoCa's condition",
    )
    return parser.parse_args()


def main() -> None:
    """Train from the start, or from OUT/state.pt."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = new_model()
    opts = optimizers(model)
    base_rates = [[g["lr"] for g in opt.param_groups] for opt in opts]
    state = args.out / "state.pt"
    start, begin = restore_state(state, model, opts), time.time()
    with open(args.out / "log.txt", "a") as log:
        for step in range(start, args.until):
            set_learning_rates(opts, base_rates, step)
            if args.dilution and step >= DILUTED_FROM:
                dilute(model, args.seed, step)
            contrastive, captioning = train_step(model, opts, *batch(args.seed, step))
            done, last = step + 1, step + 1 == args.until
            if done % 50 == 0 or last:
                print(
                    f"step {done} contrastive {contrastive:.3f} caption {captioning:.3f} "
                    f"scale {model.logit_scale.exp():.1f} "
                    f"images/s {(done - start) * BATCH / (time.time() - begin):.0f}",
                    file=log,
                    flush=True,
                )
            if done % 250 == 0 or last:
                save_state(state, model, opts, done)
    save_checkpoint(model, args.out)


if __name__ == "__main__":
    main()
