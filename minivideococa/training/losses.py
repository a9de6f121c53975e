"""The losses of CoCa (arXiv 2205.01917, section 3.1) with their gradients. ∂ and [i = j] as in `gradients`.

The captioning and the answer loss are sums over a part of a batch, divided by a count of the whole batch, so
that the parts add up. The contrastive loss takes the whole batch: each clip is a negative of all others.
"""

from __future__ import annotations

import numpy as np

from ..model.config import Array
from ..model.ops import log_softmax

WEIGHTS = {"caption": 2.0, "contrastive": 1.0}  # the factors of the losses, CoCa's (section 4.1)


def captioning_loss(logits: Array, ids: Array, targets: Array, count: int) -> tuple[float, Array]:
    """Return the captioning loss and its gradient with respect to the logits: a float and [B, L - 1, V].

    Each target y is predicted from the ids before it (teacher forcing): l = -log softmax(z)_y, with the
    logits z of the position before y. Since log softmax(z)_y = z_y - log sum_v exp(z_v),
    ∂l/∂z_v = softmax(z)_v - [v = y]. The paper sums over the ids of a text (equation 3); the mean over all
    targets of the batch is open_clip's, which gives every id the same weight.

    logits: [B, L - 1, V], of all ids but the last. ids: [B, L]. targets: bool [B, L], the ids to predict;
    padding and prompts are none. count: the number of targets in the whole batch.
    """
    predicted = targets[:, 1:]  # [B, L - 1]: the logits at position i predict the id at i + 1
    y = ids[:, 1:][predicted]  # [n]
    log_probs = log_softmax(logits[predicted])  # [n, V]
    n = np.arange(len(y))
    loss = -float(log_probs[n, y].sum(dtype=np.float64)) / count
    d = np.exp(log_probs, out=log_probs)
    d[n, y] -= 1
    d /= count
    dlogits = np.zeros_like(logits)
    dlogits[predicted] = d
    return loss, dlogits


def contrastive_loss(
    videos: Array, texts: Array, logit_scale: Array
) -> tuple[float, tuple[Array, Array, Array]]:
    """Return the contrastive loss and its gradients for videos X [B, E], texts Y [B, E] and logit scale t [].

    Video i and text i, both of unit length, are a pair; all others of the batch are negatives. The logits are
    z = exp(t) X Y^T [B, B], and the loss is the mean of the cross-entropies of the rows and of the columns,
    whose labels are on the diagonal. The paper's is twice that, their sum (equation 2); the half is CLIP's
    and open_clip's. Each cross-entropy has the gradient softmax(z) - I, along its axis; dz is their sum
    divided by 2 B. As of any product, dX = exp(t) dz Y and dY = exp(t) dz^T X; and dt = sum(dz z), since
    ∂z/∂t = z.
    """
    scale = np.exp(logit_scale)
    z = scale * (videos @ texts.T)  # [B, B]
    by_row, by_column = log_softmax(z), log_softmax(z.T).T
    B = len(z)
    loss = -float(np.trace(by_row) + np.trace(by_column)) / (2 * B)
    dz = (np.exp(by_row) + np.exp(by_column) - 2 * np.eye(B, dtype=z.dtype)) / (2 * B)
    return loss, (scale * (dz @ texts), scale * (dz.T @ videos), (dz * z).sum())


def answer_loss(logits: Array, labels: Array, count: int) -> tuple[float, Array]:
    """Return the cross-entropy of answers and its gradient with respect to logits [B, answers].

    The gradient is that of a target in `captioning_loss`, over answers in place of ids. A label of -1 is an
    answer that the classifier does not know: it adds nothing. count: the number of questions with a label in
    the whole batch.
    """
    log_probs = log_softmax(logits)
    known = np.flatnonzero(labels >= 0)
    loss = -float(log_probs[known, labels[known]].sum(dtype=np.float64)) / count
    dlogits = np.exp(log_probs)
    dlogits[known, labels[known]] -= 1
    dlogits[labels < 0] = 0
    dlogits /= count
    return loss, dlogits
