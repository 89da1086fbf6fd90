"""Three brokers, every topic on all of them, two of them for a write: one may go at any time and nothing is lost."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from tests.brokers import KafkaCluster
from tests.conftest import kafka_or_skip
from tests.integration.test_worker import avro
from tests.load import Load, judged, until_committed
from tests.workers import Stage

if TYPE_CHECKING:
    from tests.tiny import Tiny

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

EVENTS = 2_000
MOVES = ([2, 3], [3, 1], [1, 2], [3, 2], [1, 2, 3])  # the nodes that have each partition; the first leads


@pytest.fixture
def cluster_stage(tmp_path: Path, tiny: "Tiny", unique: Callable[[str], str]) -> Iterator[Stage]:
    """Topics and workers of one test on a cluster of its own."""
    with kafka_or_skip(KafkaCluster, tmp_path) as cluster:
        stage = Stage(cluster, tiny, tmp_path, unique("stage"))
        try:
            yield stage
        finally:
            for worker in stage.started:
                worker.kill()


async def test_each_broker_is_killed_in_turn(cluster_stage: Stage) -> None:
    """Killed and started again while listings are tagged, leaders of partitions and the coordinator of
    the group among them: the worker goes on, and `streamer verify` finds an outcome for every input."""
    stage, cluster = cluster_stage, cluster_stage.broker
    assert isinstance(cluster, KafkaCluster)
    await stage.create_topics()
    places = await stage.publish([avro(number) for number in range(EVENTS)])
    with stage.worker(batch_listings=16) as worker:
        for turn, node in enumerate(cluster.nodes):
            await stage.until_written(1 + turn * 200)
            node.kill()
            places += await stage.publish([avro(EVENTS + turn * 100 + number) for number in range(100)])
            await stage.until_written(100 + turn * 200)
            node.start()
        await stage.outcomes(places)
        assert worker.running
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert (verdict["good"], verdict["inputs"]) == (True, len(places))


async def test_leaders_move_from_node_to_node(cluster_stage: Stage) -> None:
    """All partitions of inputs and outputs get another leader, five times under load."""
    stage, cluster = cluster_stage, cluster_stage.broker
    assert isinstance(cluster, KafkaCluster)
    await stage.create_topics()
    async with Load(stage) as load:
        worker = stage.worker(batch_listings=16)
        await stage.until_written(100)
        for nodes in MOVES:
            await move(cluster, (stage.source, *stage.targets), nodes)
            await asyncio.sleep(3)
    await until_committed(stage, load)
    assert worker.running
    await judged(stage, load, "leaders that move", len(MOVES))


async def move(cluster: KafkaCluster, topics: tuple[str, ...], nodes: list[int]) -> None:
    """Give all partitions of the topics to these nodes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        wanted = [(topic, [(partition, nodes, {}) for partition in range(4)], {}) for topic in topics]
        answer = await admin._send_to_controller(AlterPartitionReassignmentsRequest(10_000, wanted, {}))
        refused = [one for _, partitions, _ in answer.responses for one in partitions if one[1]]
        assert (answer.error_code, refused) == (0, [])
    finally:
        await admin.close()
