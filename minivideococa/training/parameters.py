"""The tensors that are tuned, as one flat vector: the optimizer takes a single array, the model takes a tree.

A tensor that is tuned is a view of the vector, one that is frozen is the model's own array. So an update of
the vector, in place, is an update of the tree, and nothing is copied between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from ..checkpoint.table import ADDED, POOLERS, Shapes, nest, parameter_shapes, unnest
from ..model.config import Array, Config, Params, check_choice

TUNINGS = {  # the ways of tuning that VideoCoCa compares (arXiv 2212.04979); all of them tune new layers
    "lit": "all but the image encoder",
    "frozen": "the attentional poolers alone",
    "frozen-then-full": "first the attentional poolers alone, then everything",
    "full": "everything",
}
PHASES = ("lit", "frozen", "full")

# Beginnings of names
VISION = "visual."
DECODER = "text_decoder."
LATENTS = ("visual.proj", "text.cls_emb", "text.ln_final.", "text.text_projection", "logit_scale")


def phases(tune: str) -> list[str]:
    """Return the phases of one of the `TUNINGS`, in order."""
    check_choice("tune", tune, TUNINGS)
    return ["frozen", "full"] if tune == "frozen-then-full" else [tune]


def is_tuned(name: str, phase: str, also: tuple[str, ...] = ()) -> bool:
    """Return whether a phase ("lit", "frozen" or "full") tunes the tensor of this name.

    also: names, or beginnings of names, of tensors that every phase tunes.
    """
    check_choice("phase", phase, PHASES)
    if phase == "full" or name.startswith(ADDED + POOLERS + also):
        return True
    return phase == "lit" and not name.startswith(VISION)


def tunes_encoder(config: Config, phase: str, also: tuple[str, ...] = ()) -> bool:
    """Return whether a phase tunes a tensor of the image encoder, so that its frame tokens change."""
    encoder = (x for x in parameter_shapes(config) if x.startswith(VISION) and not x.startswith(POOLERS))
    return any(is_tuned(name, phase, also) for name in encoder)


def is_reached(name: str, config: Config, task: str, adapter: str) -> bool:
    """Return whether the losses of a task depend on the tensor of this name, with one of the `ADAPTERS`.

    task: "caption", "contrastive", "caption+contrastive" or "qa", which has the classifier's loss if the
    configuration lists answers, else the captioning loss. A tensor without a gradient must not be tuned, or
    weight decay would shrink it; PyTorch leaves out such parameters too.
    """
    contrastive, classifier = "contrastive" in task, task == "qa" and bool(config.answers)
    if name.startswith(LATENTS):
        return contrastive
    if name.startswith(DECODER):
        return task != "contrastive" and not (classifier and name == "text_decoder.text_projection")
    if name.startswith("question_head."):
        return classifier
    if name.startswith("factorized."):
        return adapter == "factorized"
    if name.startswith("visual.attn_pool_contrastive."):
        return contrastive or adapter == "factorized"
    if name.startswith("visual.attn_pool.") and config.vision.attentional_pool == "parallel":
        return task != "contrastive" and adapter != "factorized"
    return True


def is_decayed(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether weight decay applies: not to biases, norms, `logit_scale` and other vectors.

    The rule of open_clip's training (open_clip_train/main.py, 3.3.0). By it the class embeddings, which are
    vectors, are not decayed; token and positional embeddings and learned queries, which are matrices, are.
    """
    return len(shape) >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


@dataclass(eq=False, repr=False)
class Parameters:
    """A model's parameters for one phase of tuning. Made by `Parameters.of`."""

    values: Array  # [n], all tuned tensors one after another, in the model's dtype
    gradients: Array  # [n], theirs
    decayed: int  # values[:decayed] have weight decay, the rest does not
    params: Params  # the whole tree for the forward pass: tuned leaves are views of `values`
    grads: Params  # the same tree: tuned leaves are views of `gradients`, frozen leaves are None
    _shapes: Shapes  # of the tuned tensors, in the order of `values`
    _others: list[tuple[Array, Params]] = field(default_factory=list)  # gradients and trees of other threads

    @classmethod
    def of(
        cls,
        params: Mapping[str, Any],
        phase: str,
        reached: Callable[[str], bool] = lambda name: True,
        also: tuple[str, ...] = (),
    ) -> Parameters:
        """Copy what the phase and `also` tune into one vector; keep the frozen arrays as they are.

        params: the tree of parameters, or the tensors by name, all of one dtype. Gradients start at 0.
        reached: which tensors have gradients, see `is_reached`; the others are frozen.
        """
        tensors = unnest(params)
        names = sorted(  # stable: path order within the two groups
            (name for name in tensors if is_tuned(name, phase, also) and reached(name)),
            key=lambda name: not is_decayed(name, tensors[name].shape),
        )
        shapes: Shapes = {name: tensors[name].shape for name in names}
        values = np.concatenate([tensors[name].ravel() for name in names])
        gradients = np.zeros_like(values)
        return cls(
            values,
            gradients,
            sum(prod(shape) for name, shape in shapes.items() if is_decayed(name, shape)),
            nest(tensors | _views(values, shapes)),
            nest(dict.fromkeys(tensors) | _views(gradients, shapes)),
            shapes,
        )

    @property
    def names(self) -> list[str]:
        """The names of the tuned tensors, those with weight decay first."""
        return list(self._shapes)

    def tensors(self) -> dict[str, Array]:
        """Return the tuned tensors by name, as views of `values`."""
        return _views(self.values, self._shapes)

    def grads_of_threads(self, threads: int) -> list[Params]:
        """Return `grads` and, for each other thread, a tree of its own, for `gather` to add up."""
        while len(self._others) < threads - 1:
            vector = np.zeros_like(self.gradients)
            self._others.append(
                (vector, nest(dict.fromkeys(unnest(self.params)) | _views(vector, self._shapes)))
            )
        return [self.grads, *(grads for _, grads in self._others[: threads - 1])]

    def gather(self) -> None:
        """Add the gradients of the other threads to `gradients`, in their order, and set theirs to 0."""
        for vector, _ in self._others:
            np.add(self.gradients, vector, out=self.gradients)
            vector[:] = 0

    def segment(self, name: str) -> slice:
        """Return where a tuned tensor lies in `values` and `gradients`."""
        return _segments(self._shapes)[name]


def _segments(shapes: Shapes) -> dict[str, slice]:
    """Return where each tensor lies in the flat vector."""
    ends = np.cumsum([0, *map(prod, shapes.values())]).tolist()
    return {name: slice(*bounds) for name, bounds in zip(shapes, pairwise(ends), strict=True)}


def _views(vector: Array, shapes: Shapes) -> dict[str, Array]:
    """Return views of a flat vector, by name, in these shapes."""
    return {name: vector[where].reshape(shapes[name]) for name, where in _segments(shapes).items()}


# New layers


def new_factorized(config: Config, seed: int, dtype: Any) -> dict[str, Array]:
    """Return initial values of the layers across frames, by name; none if the config asks for none.

    The weights of queries, keys and values and of the first linear layer are normal, with open_clip's
    standard deviations for a text transformer of width E: E^-1/2 and (2 E)^-1/2. The two layers that write to
    the residual stream are zero, so each block is the identity, and before training the latent is that of
    mean pooling (ours). For the same reason positions are zero.
    """
    E = config.embed_dim
    std = {"attn.in_proj_weight": E**-0.5, "mlp.c_fc.weight": (2 * E) ** -0.5}
    return _new_layers(config, "factorized.", std, [seed, 0], dtype)


def new_question_head(config: Config, seed: int, dtype: Any) -> dict[str, Array]:
    """Return initial values of the answer classifier and its pooler, by name; none without answers.

    The query is standard normal, as in open_clip's attentional pooler; the weights of its attention are
    normal with standard deviation E^-1/2 (ours; PyTorch's own are uniform). The classifier is zero, as the
    vision transformer's is for finetuning (arXiv 2010.11929, section 3.2): all answers start equally likely,
    and no random weights send gradients to the layers below.
    """
    scale = config.embed_dim**-0.5
    std = {"pooler.query": 1.0, "attn.in_proj_weight": scale, "attn.out_proj.weight": scale}
    return _new_layers(config, "question_head.", std, [seed, 1], dtype)


def _new_layers(
    config: Config, prefix: str, std: Mapping[str, float], seed: Iterable[int], dtype: Any
) -> dict[str, Array]:
    """Draw the tensors whose names end as given, with mean 0. The others are 0, but weights of norms are 1.

    A seed gives the same numbers in every dtype, up to rounding.
    """
    rng = np.random.default_rng(list(seed))

    def tensor(name: str, shape: tuple[int, ...]) -> Array:
        for ending, deviation in std.items():
            if name.endswith(ending):
                return deviation * rng.standard_normal(shape)
        return np.full(shape, float(".ln_" in name and name.endswith(".weight")))

    shapes = parameter_shapes(config).items()
    return {name: tensor(name, shape).astype(dtype) for name, shape in shapes if name.startswith(prefix)}
