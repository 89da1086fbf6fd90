"""`python -m tests.unfetched worker`: the worker whose client forgets to fetch the partitions 0, some records on.

aiokafka has done so for reasons that cannot be had at will; everything else is the real one.
"""

import sys
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.fetcher import Fetcher

from streamer import settings, worker

LAST = 50  # offset that is still fetched

_actions = Fetcher._get_actions_per_node


def _forgotten(assignment: Any, partition: Any) -> bool:
    state = assignment.state_value(partition)
    return partition.partition == 0 and state.has_valid_position and state.position > LAST


def forgetful(self: Fetcher, assignment: Any) -> Any:
    """What to fetch next."""
    kept = {partition for partition in assignment.tps if not _forgotten(assignment, partition)}
    return _actions(self, SimpleNamespace(tps=kept, state_value=assignment.state_value))


if __name__ == "__main__":
    Fetcher._get_actions_per_node = forgetful
    sys.exit(worker.run(settings.load()))
