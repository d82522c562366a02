"""Notifiers that remember what they were told, for tests: one of ours and one of Airflow's kind."""

from __future__ import annotations

from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier

from export.notifier import Alert

TOLD: list[Alert] = []
SENT: list[str] = []


class Recorder:
    """Ours."""

    def notify(self, alert: Alert) -> None:
        TOLD.append(alert)


class Mail(BaseNotifier):
    """Airflow's: its text is a template."""

    template_fields = ("text",)

    def __init__(self, *, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        SENT.append(self.text)
