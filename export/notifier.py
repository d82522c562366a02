"""Whom to tell that something failed: a protocol, the one that logs, and how another is chosen.

```toml
[alerts]
notifier = "our_package.paging:Pager"   # called without arguments; left out: the log
```

Airflow's own notifiers (mail, Slack) are chosen in airflow.cfg instead: `[attractor] notifiers`.
"""

from __future__ import annotations

import logging
import pkgutil
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from export.logs import without_secrets
from features.configuration import Configuration
from features.errors import ConfigurationError, GateFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """One failure: what failed, where to look, and the sentences that say why, gates with their figures."""

    subject: str  # such as `nightly.audit`
    run: str  # of the scheduler
    sentences: tuple[str, ...]
    log_url: str = ""

    @property
    def text(self) -> str:
        """All of it in a few lines, for a page or a mail."""
        lines = [f"{self.subject} failed in {self.run}", *(f"- {sentence}" for sentence in self.sentences)]
        return "\n".join([*lines, self.log_url] if self.log_url else lines)


@runtime_checkable
class Notifier(Protocol):
    """Tells somebody. What it raises is logged and stops nothing."""

    def notify(self, alert: Alert) -> None:
        """Tell of `alert`."""


class LogNotifier:
    """Tells the log, as an error."""

    def notify(self, alert: Alert) -> None:
        """Log the alert's text."""
        log.error("%s", alert.text)


@dataclass(frozen=True)
class AlertConfig:
    """Whom to tell."""

    notifier: str = "export.notifier:LogNotifier"  # package.module:callable that gives a Notifier


def open_notifier(configuration: Configuration) -> Notifier:
    """The configured notifier. Raises ConfigurationError naming what cannot be had of it."""
    name = configuration.section("alerts", AlertConfig).notifier
    try:
        notifier = pkgutil.resolve_name(name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{configuration.file}, [alerts] notifier: {name!r}: {error}") from error
    if not isinstance(notifier, Notifier):
        raise ConfigurationError(
            f"{configuration.file}, [alerts] notifier: expected a method notify, {name!r} gave {notifier!r}"
        )
    return notifier


def failure(subject: str, run: str, error: BaseException | str | None, *, log_url: str = "") -> Alert:
    """The alert of a task that failed: the refused gates' sentences, else the error; passwords of URLs left out."""
    if isinstance(error, GateFailed):
        sentences = error.verdicts
    else:
        named = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        sentences = (named or "no reason is known: the process ended without one",)
    return Alert(subject, run, tuple(map(without_secrets, sentences)), log_url)
