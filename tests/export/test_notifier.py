from __future__ import annotations

import logging
from pathlib import Path

import pytest

from export.notifier import Alert, LogNotifier, Notifier, failure, open_notifier
from features.errors import ConfigurationError, GateFailed, SourceLost
from tests.scored_nights import configuration_at

SENTENCE = "karma_user_interest, row floor: rows_ratio 0.4, at least 0.8 asked (min_rows_ratio)"


class Silent:
    """A notifier of somebody's own."""

    def notify(self, alert: Alert) -> None:
        pass


def test_a_refusal_names_every_gate_with_its_figures() -> None:
    alert = failure("nightly.audit", "run 1", GateFailed("release 1", [SENTENCE, "another"]), log_url="http://log")
    assert alert.sentences == (SENTENCE, "another")
    assert alert.text.splitlines() == [
        "nightly.audit failed in run 1",
        f"- {SENTENCE}",
        "- another",
        "http://log",
    ]


def test_any_other_failure_is_told_in_its_own_words_and_one_without_words_says_so() -> None:
    assert failure("nightly.land", "run 1", SourceLost("gone")).sentences == ("SourceLost: gone",)
    assert "no reason is known" in failure("nightly.land", "run 1", None).text


@pytest.mark.parametrize("password", ["hunter2", "p@ss:word", "p%40ss"])
def test_a_password_in_a_url_is_never_told(password: str) -> None:
    told = failure("nightly.land", "run 1", f"no answer from postgresql://reader:{password}@warehouse:5432/events").text
    assert password not in told
    assert "postgresql://reader:***@warehouse:5432/events" in told


def test_the_log_is_told_unless_another_notifier_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = open_notifier(configuration_at(tmp_path))
    assert isinstance(notifier, LogNotifier)
    notifier.notify(Alert("operations.freshness", "run 1", (SENTENCE,)))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert SENTENCE in record.getMessage()
    assert isinstance(Silent(), Notifier)
    other = configuration_at(tmp_path, alerts={"notifier": "tests.recorded_alerts:Recorder"})
    assert type(open_notifier(other)).__name__ == "Recorder"


@pytest.mark.parametrize(
    "name", ["nowhere:Pager", "export.notifier:Pager", "export.notifier:Alert", "builtins:dict", ""]
)
def test_a_notifier_that_cannot_be_had_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[alerts\] notifier"):
        open_notifier(configuration_at(tmp_path, alerts={"notifier": name}))
