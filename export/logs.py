"""How log lines look: text for people, or one JSON object a line, with the run, stage and window that each belongs to.

```toml
[logging]
format = "json"   # or "text"; $ATTRACTOR_LOG_FORMAT goes before it
level = "info"
```

The ledger binds what a stage's lines carry (`structlog.contextvars`). Airflow has handlers of its own, which show the
same fields; `configure` is for a process that is ours.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import click
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from features.errors import ConfigurationError

Format = Literal["text", "json"]
FORMAT_VARIABLE = "ATTRACTOR_LOG_FORMAT"
PACKAGES = ("features", "models", "export")

progress = logging.getLogger("attractor")
"""What the command line tells of itself: bare as text, a line like any other as JSON."""

_SECRETS = (
    (re.compile(r"(://[^\s/:@]*):[^\s/]*@"), r"\1:***@"),
    (re.compile(r"\b(password|passwd|pwd|token|secret|api_?key)=[^\s&;,'\"]+", re.IGNORECASE), r"\1=***"),
)

_FORMATTED = {"message", "asctime"}  # which another handler's formatting leaves on a record


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged, and how."""

    format: Format = "text"  # for people, or one JSON object a line
    level: Literal["debug", "info", "warning", "error"] | None = None  # of our lines; left out: text warning, JSON info


def configure(config: LoggingConfig | None = None, *, environment: Mapping[str, str] = os.environ) -> None:
    """Send log lines to standard error as `config` says; what an earlier call set is replaced.

    Libraries tell warnings and worse. Raises ConfigurationError if the environment names no format.
    """
    config = config or LoggingConfig()
    chosen = environment.get(FORMAT_VARIABLE) or config.format
    if chosen not in get_args(Format):
        raise ConfigurationError(f"{FORMAT_VARIABLE}: expected one of {', '.join(get_args(Format))}, got {chosen!r}")
    handler = _StandardError()
    handler.setFormatter(_formatter(chosen == "json"))
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    logging.captureWarnings(chosen == "json")
    level = config.level or ("info" if chosen == "json" else None)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level.upper() if level else logging.NOTSET)
    progress.setLevel(logging.INFO)


def without_secrets(text: str) -> str:
    """`text` with the passwords of URLs, and what is assigned to a password, token or key, left out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class _StandardError(logging.Handler):
    """Standard error as it is when a line comes, which a test or a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _formatter(as_json: bool) -> logging.Formatter:
    told: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str) if as_json else _as_text
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # as text: structures show local variables, which may hold secrets
        _cleaned,
        renderer,
    ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=told, processors=last)


def _cleaned(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: _silenced(value) for name, value in event.items() if name not in _FORMATTED}


def _silenced(value: object) -> object:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: _silenced(part) for name, part in value.items()}
    return [_silenced(part) for part in value] if isinstance(value, list | tuple) else value


def _as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    if event.get("logger") == progress.name:
        return str(event["event"])
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return console(logger, method, event)
