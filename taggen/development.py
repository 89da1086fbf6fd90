"""The development part: listings held out of training that say, epoch by epoch, how far the model is."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from taggen import batches, head, postprocess, windows
from taggen.base import Base
from taggen.corpus import Labelled, Span
from taggen.evaluate import Score, counted
from taggen.windows import Prepared

_LISTINGS = 32  # read at once


class Development:
    """Labelled listings, tokenised once, and what a model in training reads in them: plain weights, no thresholds."""

    def __init__(self, labelled: Sequence[Labelled], base: Base, tags: Sequence[str]) -> None:
        self.labelled = labelled
        self._prepared = windows.prepare([item.listing for item in labelled], base.tokenizer, base.special)
        self._special = base.special
        self._tags = tags

    def score(self, model: nn.Module) -> Score:
        """Micro score of the mentions that the model reads, exact ones counted as right."""
        marked = found = right = 0
        for item, prepared, spans in zip(self.labelled, self._prepared, self.read(model), strict=True):
            mentions = counted(item, self._mentions(prepared, spans))
            marked += len(set(item.spans))
            found += len(mentions)
            right += len(mentions & set(item.spans))
        return Score(marked, found, right)

    @torch.inference_mode()
    def read(self, model: nn.Module) -> list[list[head.Span]]:
        """All spans of each listing, in order."""
        device = next(model.parameters()).device
        order = sorted(range(len(self._prepared)), key=lambda index: self._prepared[index].tokens)
        answers: list[list[head.Span]] = [[] for _ in order]
        for at in range(0, len(order), _LISTINGS):
            some = order[at : at + _LISTINGS]
            ids, mask = batches.rows([self._prepared[index] for index in some], self._special)
            scores = model(input_ids=ids.to(device), attention_mask=mask.to(device))
            rows = iter(range(len(ids)))
            reading = head.read(scores, len(self._tags))
            for index in some:
                answers[index] = _spans(self._prepared[index], reading, rows)
        return answers

    def _mentions(self, prepared: Prepared, spans: Sequence[head.Span]) -> set[Span]:
        located = ((span, postprocess.locate(prepared, span)) for span in spans)
        return {
            Span(place[1].field, place[1].start, place[1].end, self._tags[span.tag - 1])
            for span, place in located
            if place is not None
        }


def _spans(prepared: Prepared, reading: head.Reading, rows: Iterator[int]) -> list[head.Span]:
    """Join the windows of a listing, which are the next rows of the reading."""
    tags: list[int] = []
    begins: list[bool] = []
    confidences: list[float] = []
    for window, row in zip(prepared.windows, islice(rows, len(prepared.windows)), strict=True):
        before = window.first - 1  # tokens of the stream before the row's first, the start token
        kept = slice(window.kept_first - before, window.kept_last - before)
        tags += reading.tags[row, kept].tolist()
        begins += reading.begins[row, kept].tolist()
        confidences += reading.confidences[row, kept].tolist()
    return head.spans(tags, begins, confidences, prepared.sources)
