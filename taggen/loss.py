"""What training lessens: cross-entropy of what each tag does at each token, and binary cross-entropy of each listing's
labels."""

import torch
from torch import Tensor, nn

from taggen.batches import IGNORED, Batch

_LABELS = 0.1  # weight of a listing's labels beside the mean token
# Of what each token teaches, spread over all tags (Szegedy et al. 2016): labelled listings contradict each other in
# where a value ends, and a head that must be certain learns them by heart. A point of F1 on OA-Mine (docs/quality.md).
_SMOOTHING = 0.1


def loss(scores: Tensor, batch: Batch) -> Tensor:
    """The loss of a batch, given the head's scores [rows, tokens, width]; what nobody knows is passed over.

    The mean over the tokens that teach something of the sum over the tags, each of which may be absent or begin, or go
    on where it can; and the mean over the listings of the sum over their labels. A listing of several windows has the
    label's logit of the surest one, as when it is served.
    """
    spans = scores.shape[-1] - batch.labels.shape[-1]
    known_tokens = (batch.targets != IGNORED).any(-1)
    targets = batch.targets[known_tokens]
    its = scores[..., :spans][known_tokens]
    none, begins, goes_on = its[:, :1].expand(targets.shape), its[:, 1::2], its[:, 2::2]
    open_ = batch.open[known_tokens]
    logs = torch.stack((none, begins, goes_on.masked_fill(~open_, -torch.inf)), -1).log_softmax(-1)
    right = logs.gather(-1, targets[..., None])[..., 0]
    spread = logs.masked_fill(logs.isinf(), 0).sum(-1)  # over what the tag may do there
    smoothing = _SMOOTHING / spans
    tokens = -((1 - (2 + open_) * smoothing) * right + smoothing * spread).sum()
    logits = scores[:, 0, spans:]
    surest = torch.full_like(batch.labels, -torch.inf).scatter_reduce(
        0, batch.listings[:, None].expand_as(logits), logits, "amax"
    )
    known = batch.labels >= 0
    labels = nn.functional.binary_cross_entropy_with_logits(surest[known], batch.labels[known], reduction="sum")
    return tokens / max(len(targets), 1) + _LABELS * labels / known.any(-1).sum().clamp(min=1)
