"""What training lessens: cross-entropy of each token's tag, and binary cross-entropy of each listing's labels."""

import torch
from torch import Tensor, nn

from taggen.batches import IGNORED, Batch

_LABELS = 0.1  # weight of a listing's labels beside the mean token
# Of what each token teaches, spread over all tags (Szegedy et al. 2016): labelled listings contradict each other in
# where a value ends, and a head that must be certain learns them by heart. A point of F1 on OA-Mine (docs/quality.md).
_SMOOTHING = 0.1


def loss(scores: Tensor, batch: Batch) -> Tensor:
    """The loss of a batch, given the head's scores [rows, tokens, width]; what nobody knows is passed over.

    The mean over the tokens that teach something, and the mean over the listings of the sum over their labels. A
    listing of several windows has the label's logit of the surest one, as when it is served.
    """
    spans = scores.shape[-1] - batch.labels.shape[-1]
    taught = (batch.targets != IGNORED).sum().clamp(min=1)
    tokens = nn.functional.cross_entropy(
        scores[..., :spans].flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=_SMOOTHING,
    )
    logits = scores[:, 0, spans:]
    surest = torch.full_like(batch.labels, -torch.inf).scatter_reduce(
        0, batch.listings[:, None].expand_as(logits), logits, "amax"
    )
    known = batch.labels >= 0
    labels = nn.functional.binary_cross_entropy_with_logits(surest[known], batch.labels[known], reduction="sum")
    return tokens / taught + _LABELS * labels / known.any(-1).sum().clamp(min=1)
