"""The development part: listings held out of training that say, epoch by epoch, how far the model is, and in the end
which confidences are to be believed."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taggen import batches, chain, head, postprocess, windows
from taggen.adapter import LabelType, TagType
from taggen.base import Base
from taggen.corpus import Labelled, Span
from taggen.evaluate import Score, counted
from taggen.head import TokenTag, label_count
from taggen.windows import Prepared, Window

_LISTINGS = 32  # read at once


class Scores(NamedTuple):
    """What a model says of all listings: scores of the `tokens` [tokens, 2K+1] of their streams, one stream behind the
    other, and logits of the `labels` [listings, M]. On the CPU."""

    tokens: Tensor
    labels: Tensor


class Judged(NamedTuple):
    """A span that the model reads in a listing, the mention that it stands for, and whether that is right."""

    listing: int
    span: head.Span
    mention: Span
    right: bool


class Development:
    """Labelled listings, tokenised once, and what a model in training reads in them: plain weights, no thresholds."""

    def __init__(
        self, labelled: Sequence[Labelled], base: Base, tags: Sequence[TagType], labels: Sequence[LabelType] = ()
    ) -> None:
        self.labelled = labelled
        self.label_targets = batches.label_targets(labelled, [(label.name, label.value) for label in labels])
        self._prepared = windows.prepare([item.listing for item in labelled], base.tokenizer, base.special)
        self._special = base.special
        self._tags = tags

    def score(self, model: nn.Module) -> Score:
        """Micro score of what the model reads: mentions, exact ones counted as right, and labels more probable than
        not."""
        scores = self.scores(model)
        judged = self.judge(self.read(scores))
        known = self.label_targets >= 0
        found, right = (scores.labels > 0) & known, self.label_targets > 0
        return Score(
            sum(len(set(item.spans)) for item in self.labelled) + int(right.sum()),
            len(judged) + int(found.sum()),
            sum(one.right for one in judged) + int((found & right).sum()),
        )

    @torch.inference_mode()
    def scores(self, model: nn.Module) -> Scores:
        """Run the model over all listings."""
        device = next(model.parameters()).device
        spans = label_count(len(self._tags))
        order = sorted(range(len(self._prepared)), key=lambda index: self._prepared[index].tokens)
        tokens = [torch.empty(0)] * len(order)
        labels = [torch.empty(0)] * len(order)
        for at in range(0, len(order), _LISTINGS):
            some = order[at : at + _LISTINGS]
            ids, mask = batches.rows([self._prepared[index] for index in some], self._special)
            rows = iter(model(input_ids=ids.to(device), attention_mask=mask.to(device)).float().cpu())
            for index in some:
                its = [(window, next(rows)) for window in self._prepared[index].windows]
                tokens[index] = torch.cat([_kept(window, row) for window, row in its])[:, :spans]
                labels[index] = torch.stack([row[0, spans:] for _, row in its]).amax(0)
        return Scores(torch.cat(tokens), torch.stack(labels))

    def posteriors(self, tokens: Tensor) -> Tensor:
        """The probabilities [tokens, K, 3] of what tags do, given `Scores.tokens`; each stream in one row."""
        rows = torch.split(tokens, [len(prepared.ids) for prepared in self._prepared])
        sources = [torch.tensor(prepared.sources, dtype=torch.long) for prepared in self._prepared]
        found = []
        for at in range(0, len(rows), _LISTINGS):
            some = slice(at, at + _LISTINGS)
            padded = nn.utils.rnn.pad_sequence(list(rows[some]), batch_first=True)
            fields = nn.utils.rnn.pad_sequence(sources[some], batch_first=True, padding_value=windows.NO_FIELD)
            its = chain.posteriors(padded, fields)
            found += [row[: len(one)] for row, one in zip(its, rows[some], strict=True)]
        return torch.cat(found)

    def read(self, scores: Scores) -> list[list[head.Span]]:
        """The spans of each listing."""
        (tags,) = head.reading(self.posteriors(scores.tokens)[None], scores.labels).tags
        firsts = [0, *accumulate(len(prepared.ids) for prepared in self._prepared)]
        its: list[list[TokenTag]] = [[] for _ in self._prepared]
        for one in tags:
            listing = bisect_right(firsts, one.token) - 1
            its[listing].append(one._replace(token=one.token - firsts[listing]))
        return [head.spans(some, prepared.sources) for some, prepared in zip(its, self._prepared, strict=True)]

    def judge(self, read: Sequence[Sequence[head.Span]]) -> list[Judged]:
        """The spans that stand for a mention which can be told right or wrong, the surest one of each mention."""
        judged = []
        for index, (item, prepared, spans) in enumerate(zip(self.labelled, self._prepared, read, strict=True)):
            surest: dict[Span, head.Span] = {}
            for span in sorted(spans, key=lambda span: span.confidence):
                mention = self._mention(prepared, span)
                if mention is not None:
                    surest[mention] = span
            counting = counted(item, set(surest))
            marked = set(item.spans)
            judged += [
                Judged(index, span, mention, mention in marked)
                for mention, span in surest.items()
                if mention in counting
            ]
        return judged

    def places(self, judged: Sequence[Judged]) -> tuple[Tensor, Tensor]:
        """The tokens of judged spans, as rows of `Scores.tokens`, and which span each belongs to."""
        firsts = [0, *accumulate(len(prepared.ids) for prepared in self._prepared)]
        pairs = [
            (firsts[one.listing] + at, number)
            for number, one in enumerate(judged)
            for at in range(one.span.first, one.span.last)
            if self._prepared[one.listing].sources[at] >= 0
        ]
        tokens, spans = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        return tokens, spans

    def _mention(self, prepared: Prepared, span: head.Span) -> Span | None:
        located = postprocess.locate(prepared, span)
        if located is None:
            return None
        place = located[1]
        return Span(place.field, place.start, place.end, self._tags[span.tag - 1].name)


def _kept(window: Window, row: Tensor) -> Tensor:
    """The rows of a window's scores that are taken from it."""
    before = window.first - 1  # tokens of the stream before the row's first, the start token
    return row[window.kept_first - before : window.kept_last - before]
