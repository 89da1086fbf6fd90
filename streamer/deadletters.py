"""The guard against draining a topic into the dead letters."""

from collections import Counter, deque

from streamer.errors import TooManyDeadLetters


class ShareGuard:
    """Watches the last `window` records and stops the worker when more than `share` of them, and at least `minimum`,
    became dead letters of more than one merchant: then the fault is ours or a release's, not one merchant's.

    A dead letter whose merchant could not be read counts as any merchant's.
    """

    def __init__(self, share: float, window: int, minimum: int) -> None:
        self._share = share
        self._minimum = minimum
        self._recent: deque[tuple[str | None, str | None]] = deque(maxlen=window)
        self._merchants: Counter[str | None] = Counter()  # dead letters in the window

    def record(self, reason: str | None, merchant_id: str | None) -> None:
        """Count one record: `reason` of its dead letter, None when it has none. Raises TooManyDeadLetters."""
        if len(self._recent) == self._recent.maxlen:
            oldest_reason, merchant = self._recent[0]
            if oldest_reason is not None:
                self._merchants[merchant] -= 1
                if not self._merchants[merchant]:
                    del self._merchants[merchant]
        self._recent.append((reason, merchant_id))
        if reason is not None:
            self._merchants[merchant_id] += 1
            self._check()

    def _check(self) -> None:
        total = self._merchants.total()
        spread = len(self._merchants) > 1 or None in self._merchants
        if spread and total >= self._minimum and total > self._share * len(self._recent):
            reasons = Counter(reason for reason, _ in self._recent if reason is not None)
            raise TooManyDeadLetters(
                f"{total} of the last {len(self._recent)} records became dead letters, most of them "
                f"{reasons.most_common(1)[0][0]}: stopped, and nothing more is acknowledged"
            )
