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
        self._recent: deque[tuple[bool, str | None]] = deque(maxlen=window)
        self._dead: Counter[str | None] = Counter()

    def record(self, dead: bool, merchant_id: str | None) -> None:
        """Count one record's outcome; raises TooManyDeadLetters."""
        if len(self._recent) == self._recent.maxlen:
            was_dead, merchant = self._recent[0]
            if was_dead:
                self._dead[merchant] -= 1
                if not self._dead[merchant]:
                    del self._dead[merchant]
        self._recent.append((dead, merchant_id))
        if dead:
            self._dead[merchant_id] += 1
            self._check()

    def _check(self) -> None:
        total = self._dead.total()
        spread = len(self._dead) > 1 or None in self._dead
        if spread and total >= self._minimum and total > self._share * len(self._recent):
            raise TooManyDeadLetters(
                f"{total} of the last {len(self._recent)} records became dead letters, of "
                f"{len(self._dead)} merchants: stopped, and nothing more is acknowledged"
            )
