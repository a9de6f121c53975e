"""Write tests/golden/torch: small files made by torch.save, and their tensors as safetensors.

Run with torch and open_clip installed: python tests/oracle/make_torch_files.py
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from open_clip.coca_model import CoCa
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"

CONFIG = {
    "embed_dim": 2,
    "vision_cfg": {
        "image_size": 4,
        "patch_size": 2,
        "width": 3,
        "layers": 1,
        "head_width": 3,
        "mlp_ratio": 1,
        "attentional_pool": True,
        "attn_pooler_queries": 2,
        "attn_pooler_heads": 1,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 3,
        "vocab_size": 5,
        "width": 2,
        "layers": 1,
        "heads": 1,
        "mlp_ratio": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 3, "vocab_size": 5, "width": 2, "layers": 1, "heads": 1},
}


def assorted() -> OrderedDict[str, torch.Tensor]:
    """Return tensors of every dtype and every kind of view that a state dict can hold."""
    base = torch.arange(24, dtype=torch.float32) / 8 - 1
    return OrderedDict(
        plain=base.reshape(4, 6),
        transposed=base.reshape(4, 6).T,  # shares the storage of `plain`, as do the next two
        part=base.reshape(4, 6)[1:3, ::2],
        expanded=base[5:6].expand(3, 2),
        scalar=torch.tensor(2.5),
        empty=torch.empty(0, 3),
        parameter=torch.nn.Parameter(torch.tensor([1.0, -1.0])),
        float64=torch.tensor([1 / 3], dtype=torch.float64),
        float16=torch.tensor([1.0, 65504.0, 6e-8]).half(),
        bfloat16=torch.tensor([1.0, 3e38, -1e-40]).bfloat16(),
        int64=torch.tensor([-(2**62), 7]),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
    )


def coca() -> CoCa:
    model = CoCa(**CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # open_clip leaves one of them uninitialised
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    tensors = assorted()
    torch.save(tensors, GOLDEN / "assorted_zip.pt")
    torch.save(tensors, GOLDEN / "assorted_legacy.pt", _use_new_zipfile_serialization=False)
    save_file(
        {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        },
        GOLDEN / "assorted.safetensors",
    )

    model = coca()
    (GOLDEN / "coca.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file(model.state_dict(), GOLDEN / "coca.safetensors")
    torch.save(model.state_dict(), GOLDEN / "coca_legacy.bin", _use_new_zipfile_serialization=False)

    # as open_clip's training writes it after an epoch of a distributed run, with a smaller optimizer
    optimizer = torch.optim.AdamW([model.logit_scale], lr=np.float64(0.05))  # as its schedule leaves it
    model.logit_scale.backward()
    optimizer.step()
    model.logit_scale.data.copy_(coca().logit_scale)
    distributed = OrderedDict((f"module.{name}", tensor) for name, tensor in model.state_dict().items())
    torch.save(
        {"epoch": 3, "name": "run", "optimizer": optimizer.state_dict(), "state_dict": distributed},
        GOLDEN / "epoch_3.pt",
        _use_new_zipfile_serialization=False,
    )


if __name__ == "__main__":
    main()
