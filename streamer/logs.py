"""Logging: one structlog pipeline for our events and for what the libraries log, as JSON or for the console."""

import logging
import sys
import traceback
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from streamer.errors import BrokerError, SettingsError, StreamerError
from streamer.settings import Settings
from taggen.errors import TaggenError

FAILED, WRONG_SETTING = 1, 2  # exit codes

# They log an exception at every level it passes, repeat connection errors ten times a second and may quote what they
# work on; the worker says once, in a line of its own, what went wrong.
LOUD = ("faust", "mode", "aiokafka", "asyncio")


def configure(settings: Settings) -> None:
    """Send all logging to stderr in the format and from the level on that the settings ask for."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.DEBUG if level == logging.DEBUG else logging.CRITICAL)


def failed(error: Exception, settings: Settings) -> int:
    """Say in one line what stopped the process; returns its exit code."""
    log = structlog.get_logger(__name__)
    if isinstance(error, StreamerError | TaggenError):
        log.error("stopped", error=type(error).__name__, message=str(error))
        return WRONG_SETTING if isinstance(error, SettingsError) else FAILED
    if isinstance(error, KafkaError):
        log.error("stopped", error=BrokerError.__name__, message=f"{settings.kafka_bootstrap}: {type(error).__name__}")
        return FAILED
    # a bug of ours: say where, but not the exception's text, which may quote a listing
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("stopped", error=type(error).__name__, message="an unexpected error", where=where)
    return FAILED
