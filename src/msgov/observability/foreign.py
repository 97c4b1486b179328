"""What others log, warn of or die of becomes one of our lines too.

The standard library's loggers, Python's warnings, structlog's own loggers, and the exceptions that nobody caught.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final

import structlog

from msgov.observability.logs import PROCESSORS, Logger, installed, levels

_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SERVERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
"""Servers whose loggers write by handlers of their own, outside of any request's context."""


class _Handler(logging.Handler):
    """Writes records by our chain."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that the writing itself causes is passed over."""
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            try:
                event = record.getMessage()
            except Exception:  # noqa: BLE001  arguments that do not fit are the caller's mistake, and the line stays
                event = f"{record.msg} (its arguments do not fit)"
            fields = {key: value for key, value in vars(record).items() if key not in _RECORD}
            fields["exc_info"] = record.exc_info
            fields["stack_info"] = record.stack_info
            installed().tell(record.levelno, record.name, event, **fields)
        finally:
            self._busy.now = False


class Capture:
    """Takes over what others would write to the terminal, from its making until `end`, which puts all back.

    Handlers that write elsewhere (a file, an error tracker) stay. uvicorn's access log is silenced: the canonical lines
    say more, and say it inside the request's trace.
    """

    def __init__(self) -> None:
        self._handler = _Handler()
        self._undo: list[Callable[[], None]] = []
        logging.captureWarnings(True)
        self._undo.append(lambda: logging.captureWarnings(False))
        self._keep(logging, "raiseExceptions", False)
        self._silence(logging.getLogger())
        logging.getLogger().addHandler(self._handler)
        self._undo.append(lambda: logging.getLogger().removeHandler(self._handler))
        for name in _SERVERS:
            logger = logging.getLogger(name)
            self._silence(logger)
            self._keep(logger, "propagate", True)
            self._keep(logger, "disabled", name == "uvicorn.access")
        self._loggers()
        self._hooks()

    def end(self) -> None:
        """Put back what was there; ending twice is fine."""
        while self._undo:
            self._undo.pop()()

    def _keep(self, owner: object, name: str, value: object) -> None:
        """Set an attribute, and remember what it was; it is put back unless somebody else has changed it since."""
        before = getattr(owner, name)
        setattr(owner, name, value)

        def undo() -> None:
            if getattr(owner, name) is value:
                setattr(owner, name, before)

        self._undo.append(undo)

    def _silence(self, logger: logging.Logger) -> None:
        for handler in list(logger.handlers):
            if type(handler) is logging.StreamHandler and handler.stream in (sys.stdout, sys.stderr, sys.__stderr__):
                logger.removeHandler(handler)
                self._undo.append(partial(logger.addHandler, handler))

    def _loggers(self) -> None:
        """Let structlog's own loggers write by our chain."""
        configured, before = structlog.is_configured(), structlog.get_config()
        structlog.configure(
            processors=PROCESSORS,
            wrapper_class=Logger,
            logger_factory=lambda *names: levels.voice(str(names[0]) if names else ""),
            cache_logger_on_first_use=False,
        )
        self._undo.append(partial(structlog.configure, **before) if configured else structlog.reset_defaults)

    def _hooks(self) -> None:
        """Take the hooks for exceptions that nobody caught, where they are still Python's own."""
        if sys.excepthook is sys.__excepthook__:
            self._keep(sys, "excepthook", _uncaught)
        if threading.excepthook is threading.__excepthook__:
            self._keep(threading, "excepthook", _ended)
        if sys.unraisablehook is sys.__unraisablehook__:
            self._keep(sys, "unraisablehook", _ignored)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, Exception):
        installed().tell(logging.CRITICAL, "python", "uncaught", exc_info=error)
    else:  # Ctrl-C is no failure
        sys.__excepthook__(kind, error, trace)


def _ended(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not isinstance(about.exc_value, SystemExit):
        thread = about.thread.name if about.thread else ""
        installed().tell(logging.ERROR, "python", "thread.died", thread=thread, exc_info=about.exc_value)


def _ignored(about: sys.UnraisableHookArgs) -> None:
    installed().tell(
        logging.ERROR, "python", about.err_msg or "ignored", source=repr(about.object), exc_info=about.exc_value
    )
