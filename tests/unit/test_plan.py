from aiokafka import TopicPartition

from streamer.plan import Plan
from streamer.scan import Span


def plan(*partitions: tuple[int, int, int]) -> Plan:
    """Of start, done and end of each partition."""
    spans = {TopicPartition("t", number): Span(start, end) for number, (start, _, end) in enumerate(partitions)}
    done = {TopicPartition("t", number): done for number, (_, done, _) in enumerate(partitions)}
    return Plan("group", "digest", spans, done, 0, resumed=True)


def test_what_is_left_is_shared_in_whole_partitions() -> None:
    """About the same for each, what is done already for nobody, and together all that is left."""
    whole = plan((0, 0, 100), (5, 65, 105), (0, 50, 50), (0, 0, 50), (7, 7, 17))
    shares = whole.shares(2)
    assert [[one.partition for one in share.spans] for share in shares] == [[0], [3, 1, 4]]
    assert [share.offsets_left for share in shares] == [100, 100]
    assert {one: span for share in shares for one, span in share.left.items()} == whole.left
    assert {(share.group, share.digest, share.began_ms) for share in shares} == {("group", "digest", 0)}


def test_nobody_comes_for_nothing() -> None:
    """Of more shares than partitions left, the empty ones are none."""
    assert len(plan((0, 0, 10), (0, 10, 10), (0, 3, 10)).shares(4)) == 2
    assert plan((0, 10, 10)).shares(3) == []
