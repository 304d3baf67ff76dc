"""JSON lines on standard output, each with the current request id and trace."""

import logging
import secrets
import sys
from contextvars import ContextVar

import structlog

traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""W3C trace context of the current work, propagated to events and calls to other services."""


def new_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


class _Output(structlog.WriteLogger):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def configure(service: str, level: str) -> None:
    """Render the events of structlog and of the standard library's loggers as JSON. Call once, at start-up."""

    def add_service(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    processors: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        add_service,
    ]
    # Not through the standard library, which takes three times as long: every request is logged.
    structlog.configure(
        processors=[*processors, structlog.processors.JSONRenderer()],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # At info level, these repeat our own log lines and metrics, or log URLs that may contain signatures.
    for noisy in ("aio_pika", "aiormq", "httpx", "httpcore", "urllib3", "pymongo", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger
