"""Sources that are written in transactions."""

import json

from aiokafka import AIOKafkaProducer

from streamer.records import TagEvent
from tests.brokers import KAFKA
from tests.integration.test_worker import avro
from tests.workers import Stage


@KAFKA
async def test_aborted_records_are_not_tagged(stage: Stage) -> None:
    """Nor do they, or the markers of transactions, hold up the commits: not even right behind the first record."""
    await stage.create_topics()
    places = []
    async with AIOKafkaProducer(bootstrap_servers=stage.broker.bootstrap, transactional_id=stage.name) as producer:
        for number in range(60):
            await producer.begin_transaction()
            sent = await producer.send(stage.source, avro(number), partition=0)
            metadata = await sent
            if number % 3 == 0:
                places.append((stage.source, 0, metadata.offset))
                await producer.commit_transaction()
            else:
                await producer.abort_transaction()
    with stage.worker(batch_listings=4) as worker:
        found = await stage.outcomes(places)
        worker.terminate()
        assert await worker.exit_code() == 0
    events = [one for outcomes in found.values() for one in outcomes]
    assert all(isinstance(one, TagEvent) for one in events)
    assert len(events) == len(places) == 20
    assert (await stage.committed())[0] == places[-1][2] + 1
    verdict = json.loads(await stage.command("verify", "--json"))
    assert (verdict["good"], verdict["inputs"], verdict["required"]) == (True, 20, 20)
