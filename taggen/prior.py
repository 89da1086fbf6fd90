"""What the head says before it has learnt anything: how frequent each label is.

Most tokens carry no tag. A head that begins with equal chances has to learn that first, and the encoder can be faster
than it: it gives all tokens one state that says "no tag", and never comes back. AE-110k's listings, one word in seven
of which is marked, end so within 30 steps. (Lin et al. 2017, Focal Loss, section 3.3, begin like this for that reason.)
What goes on from an adapter knows that already.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from taggen import batches, windows
from taggen.base import Base
from taggen.corpus import Label, Labelled
from taggen.head import BEGINS, GOES_ON

_UNSEEN = 0.5  # added to each count: what no listing has is improbable, not impossible


def bias(labelled: Sequence[Labelled], base: Base, tags: Sequence[str], labels: Sequence[Label]) -> Tensor:
    """The head's bias to begin with, float32 [2K+1+M]: the log-odds that each tag begins at a token, that it goes on at
    one where it can, and those of each label among the listings that say something of its name."""
    numbers = {name: number for number, name in enumerate(tags, 1)}
    begins, goes_on = torch.full((2, len(tags)), _UNSEEN), torch.full((2, len(tags)), _UNSEEN)
    for item, prepared in zip(
        labelled, windows.prepare([item.listing for item in labelled], base.tokenizer, base.special), strict=True
    ):
        its, open_ = batches.token_labels(item, prepared, numbers)
        begins += torch.stack([(its == state).sum(0) for state in (0, BEGINS)])
        goes_on += torch.stack([((its == state) & open_).sum(0) for state in (0, GOES_ON)])
    tokens = torch.stack([(does / none).log() for none, does in (begins, goes_on)], -1).flatten()
    targets = batches.label_targets(labelled, labels)
    having = (targets == 1).sum(0) + _UNSEEN
    lacking = (targets == 0).sum(0) + _UNSEEN
    return torch.cat((torch.zeros(1), tokens, (having / lacking).log()))
