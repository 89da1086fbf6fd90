"""The worker: a Faust app around the tagging agent, from the first connection to the last commit."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import faust
import structlog
from faust.types import TP
from mode import CrashingSupervisor

from streamer import logs
from streamer.agent import TaggingAgent
from streamer.attempts import Attempts
from streamer.codec import Codec
from streamer.control import Control
from streamer.delivery import Delivery
from streamer.errors import SettingsError
from streamer.flow import Progress
from streamer.metrics import Metrics
from streamer.modelthread import ModelThread
from streamer.pipeline import Pipeline, Tagger
from streamer.preflight import preflight
from streamer.reporter import Reporter
from streamer.settings import Settings
from streamer.stream import FAUST_LOGGER, RawSchema, SilentMonitor, Stream
from streamer.transport import Transport
from streamer.watchdog import Watchdog
from streamer.web import WebServer

if TYPE_CHECKING:
    from streamer.adapters import Adapters
    from streamer.tracing import Tracing

POLL_RECORDS = 512  # handed over by one poll: small beside the stream's buffer, large beside the cost of a poll
TRACED_BY = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CRASH_DRAIN_S = 3.0  # to commit what is acknowledged and leave the group; nothing else is waited for

log = structlog.get_logger(__name__)


class App(faust.App):  # type: ignore[misc]  # faust is untyped
    """A Faust app without tables or web server: needs no folder of its own, and no producer besides ours."""

    logger = FAUST_LOGGER

    class BootStrategy(faust.app.BootStrategy):  # type: ignore[misc]
        """Consumer and agents only."""

        enable_kafka_producer = False
        enable_web = False

    async def on_first_start(self) -> None:
        """Faust would create its data folder here."""


def build_app(settings: Settings, agent: TaggingAgent) -> App:
    """The Faust app that feeds `agent` from the source topics. Call it in the event loop that will run it."""
    app = App(
        settings.group_id,
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_commit_interval=settings.commit_interval_s,
        broker_commit_every=settings.commit_every,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_rebalance_timeout=settings.rebalance_timeout_s,
        consumer_group_instance_id=settings.group_instance_id,
        broker_max_poll_records=POLL_RECORDS,
        stream_buffer_maxsize=settings.queue_records,
        stream_wait_empty=True,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        worker_redirect_stdouts=False,
        monitor=SilentMonitor(),
        Stream=Stream,
    )
    app.transport = Transport(app.conf.broker_consumer, app, settings)
    topic = app.topic(*settings.input_topics, schema=RawSchema())

    @app.agent(  # type: ignore[untyped-decorator]
        topic, name="tagging", concurrency=1, supervisor_strategy=CrashingSupervisor
    )
    async def tagging(stream: Any) -> None:
        await agent.run(stream)

    return app


class Worker:
    """One run of the service. `serve` returns after SIGTERM or SIGINT and raises what stopped it otherwise."""

    def __init__(self, settings: Settings, tagger: Tagger | None = None) -> None:
        """`tagger`: None loads the one that the settings name; benchmarks and tests pass others."""
        self._settings = settings
        self._tagger = tagger
        self._metrics = Metrics()
        self._stopping = asyncio.Event()
        self._app: App | None = None
        self._agent: TaggingAgent | None = None
        self._attempts: Attempts | None = None
        self._adapters: Adapters | None = None
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []  # what runs beside the app
        self._failed = False
        self.drained = True  # False: something was left behind that would not end
        self.ended = True  # False: a thread still waits for the adapter store

    @property
    def ready(self) -> bool:
        """It has joined its group and consumes."""
        app = self._app
        return app is not None and app.tables.recovery.completed.is_set() and not self._stopping.is_set()

    @property
    def healthy(self) -> bool:
        """Nothing has failed."""
        return not self._failed

    async def serve(self) -> None:
        """Run until a signal; raises StreamerError or TaggenError, with the inputs in hand unacknowledged."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            web = WebServer(self, self._metrics, self._settings.web_host, self._settings.web_port)
            stack.push_async_callback(web.stop)
            try:
                port = await web.start()
            except OSError as error:
                raise SettingsError(f"STREAMER_WEB_PORT: {self._settings.web_port}: {error.strerror}") from error
            log.info("starting", web=f"http://{self._settings.web_host}:{port}")
            model_thread = ModelThread()
            stack.callback(model_thread.shutdown, wait=False, cancel_futures=True)
            running = asyncio.create_task(self._run(stack, model_thread))
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if self._app is None and not running.done():  # a signal while starting: nothing to finish
                running.cancel()
                await asyncio.wait({running})
                return
            try:
                await running
            except BaseException:
                self._failed = True
                raise

    async def _run(self, stack: AsyncExitStack, model_thread: ModelThread) -> None:
        settings = self._settings
        loop = asyncio.get_running_loop()
        codec = Codec.from_settings(settings)
        tracing = load_tracing()
        await loop.run_in_executor(None, codec.look_up_ids)
        tagger = self._tagger
        if tagger is None:
            tagger = await loop.run_in_executor(model_thread, load_tagger, settings)
        self._metrics.serves(tagger.model)
        log.info("tagger_loaded", adapter=tagger.model.adapter, version=tagger.model.version, base=tagger.model.base)
        max_output_bytes = await preflight(settings)
        delivery = Delivery(settings, max_output_bytes)
        stack.push_async_callback(delivery.stop)
        await delivery.start()
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
            max_output_bytes -= tracing.header_bytes
        pipeline = Pipeline(settings, codec, tagger, max_output_bytes)
        if settings.adapter_store is not None:
            await self._follow_adapters(stack, codec, tagger, settings.adapter_store, model_thread)
        self._attempts = attempts = Attempts(settings, delivery)
        self._agent = TaggingAgent(
            settings, pipeline, delivery, self._metrics, model_thread, self._adapters, tracing, attempts
        )
        self._app = build_app(settings, self._agent)
        self._app.on_partitions_revoked.connect(attempts.revoked)
        self._app.on_partitions_assigned.connect(log_assigned)
        self._metrics.watch_lag(self._lags)
        gc.collect()
        gc.freeze()  # the model's objects live as long as we do; Faust collects at every rebalance
        stack.callback(gc.unfreeze)
        await self._consume(self._app, delivery, self._agent.progress)

    async def _follow_adapters(
        self, stack: AsyncExitStack, codec: Codec, tagger: Any, root: str, model_thread: ModelThread
    ) -> None:
        """Read the control topic to its end and load what serves; both go on beside the stream."""
        from streamer.adapters import Adapters  # noqa: PLC0415  torch: seconds, and not needed without a store
        from taggen.store import Store  # noqa: PLC0415

        settings = self._settings
        store = Store(root, settings.adapter_cache_bytes)
        fingerprint = tagger.default.card.base_fingerprint
        self._adapters = adapters = Adapters(tagger, store, fingerprint, model_thread, self._metrics)
        stack.callback(self._stop_loading, adapters)
        self._metrics.watch_slots(tagger.table)
        control = Control(settings, codec, adapters.follow)
        stack.push_async_callback(control.stop)
        reporter = Reporter(settings, codec, fingerprint, lambda: control.next_offset)
        adapters.connect(reporter.report, control.up_to_date)
        began = time.monotonic()
        await control.start()
        log.info(
            "control_read",
            topic=settings.adapters_topic,
            records=control.next_offset,
            merchants=len(adapters.routing),
            seconds=round(time.monotonic() - began, 2),
        )
        await adapters.preload(settings.adapter_preload_s)
        self._beside = [control.run, reporter.run]

    def _stop_loading(self, adapters: "Adapters") -> None:
        if not adapters.close():
            self.ended = False

    async def _consume(self, app: App, delivery: Delivery, progress: Progress) -> None:
        """Run the app until a signal, a crash of the app, or a finding of the watchdog."""
        watchdog = Watchdog(self._settings, delivery, progress, lambda: app.consumer)
        starting = asyncio.create_task(app.start())
        crash = asyncio.create_task(app.wait_until_stopped())
        tasks = {
            starting,
            crash,
            asyncio.create_task(self._stopping.wait()),
            asyncio.create_task(watchdog.run()),
            *(asyncio.create_task(run()) for run in self._beside),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if done == {starting} and not starting.exception():
                log.info("consuming", topics=list(self._settings.input_topics))
                done, _ = await asyncio.wait(tasks - done, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if crash in done and app.crash_reason is not None:
                raise app.crash_reason
        except BaseException as error:
            await self._stop(app, min(CRASH_DRAIN_S, self._settings.drain_s))
            if self._attempts is not None:
                await self._attempts.close(error)
            raise
        else:
            await self._stop(app, self._settings.drain_s)
            if self._attempts is not None and self.drained:
                await self._attempts.close()
        finally:
            for task in tasks:
                task.cancel()

    async def _stop(self, app: App, limit_s: float) -> None:
        """Finish the batches in hand (not after a crash), commit what is acknowledged, leave the group."""
        log.info("stopping", in_hand=self._in_hand())
        stopping = asyncio.create_task(app.stop())  # it swallows cancellation: nothing but leaving it behind ends it
        done, _ = await asyncio.wait({stopping}, timeout=limit_s)
        self.drained = bool(done)
        if not done:
            log.warning("not_drained", in_hand=self._in_hand(), after_s=limit_s)

    def _in_hand(self) -> int:
        return self._agent.progress.in_hand if self._agent else 0

    def _lags(self) -> Iterator[tuple[str, int, int]]:
        """(topic, partition, records between the last finished and the end) of the assigned partitions."""
        consumer = self._app.consumer if self._app is not None and self.ready else None
        if consumer is None or self._agent is None:
            return
        for partition in consumer.assignment():
            highwater = consumer.highwater(partition)
            finished = self._agent.progress.finished.get((partition.topic, partition.partition))
            if highwater is not None and finished is not None:
                yield partition.topic, partition.partition, max(0, highwater - finished - 1)


async def log_assigned(_: App, assigned: Iterable[TP], **__: Any) -> None:
    """Say which partitions this worker has, for Faust's signal."""
    log.info("assigned", partitions=sorted(f"{one.topic}/{one.partition}" for one in assigned))


def load_tagger(settings: Settings) -> Tagger:
    """The tagger that the settings name; raises TaggenError."""
    import torch  # noqa: PLC0415  # seconds: not for `--help`

    from taggen import tagger  # noqa: PLC0415

    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    return tagger.load(
        settings.base_model,
        settings.default_adapter,
        settings.quantization,
        settings.compute_dtype,
        settings.device,
        settings.generation,
        settings.adapter_memory,
    )


def load_tracing() -> "Tracing | None":
    """What makes traces, where OpenTelemetry's own variables ask for them; raises SettingsError."""
    asked = [name for name in TRACED_BY if os.environ.get(name)]
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not asked or disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from streamer import tracing  # noqa: PLC0415  an extra
    except ImportError:
        raise SettingsError(f"{asked[0]}: needs OpenTelemetry: pip install 'stream-taggen[tracing]'") from None
    return tracing.from_environment()


def run(settings: Settings, tagger: Tagger | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code, after one clear line about any failure.

    A worker that could not be drained (a model call that never ends, a broker that is gone) ends the process at once.
    """
    logs.configure(settings)
    return asyncio.run(_serve(settings, tagger))


async def _serve(settings: Settings, tagger: Tagger | None) -> int:
    structlog.contextvars.bind_contextvars(group=settings.group_id, pid=os.getpid())
    worker = Worker(settings, tagger)
    try:
        await worker.serve()
    except Exception as error:
        code = logs.failed(error, settings)
    else:
        code = 0 if worker.drained else logs.FAILED
        log.info("stopped")
    if not (worker.drained and worker.ended):
        # threads that may never end would keep the process
        logging.shutdown()
        os._exit(code)
    return code


def _credentials(settings: Settings) -> Any:
    context = settings.ssl_context()
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value() if settings.sasl_password else None,
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
