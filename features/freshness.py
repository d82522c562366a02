"""How old what is served is: FRESH, STALE or MISSING against a declared maximum age, and what to read instead.

    reader = open_reader()                        # the store and [freshness] of attractor.toml
    answer = reader.read(now=datetime.now(UTC))   # once per request
    answer.freshness.state, answer.release, answer.popular_items

Age is that of the data: since the end of the window of a release's oldest part. When a release went live says nothing
of it, so that a night published again, rolled back to or composed of an older part never looks younger than it is.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from features.errors import ArtifactCorrupt, BucketUnreachable, MissingInput
from features.releases import Release, ReleaseStore, read_pointer

if TYPE_CHECKING:  # it imports pydantic, which a reader that names its store can do without
    from features.configuration import Configuration

Fallback = Literal["none", "previous", "popularity"]
Source = Literal["live", "previous", "popularity", "none"]

_DURATION = re.compile(r"([1-9]\d{0,5})(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class State(StrEnum):
    """What may be said of the age of what is served."""

    FRESH = "FRESH"
    STALE = "STALE"
    MISSING = "MISSING"
    UNDECLARED = "UNDECLARED"  # no maximum age is declared: nobody may call it fresh


@dataclass(frozen=True)
class FreshnessConfig:
    """How old data may be when they are read, and what to read when they are older."""

    max_age: str | None = None  # "36h", "90m", "3d": since the end of the window; left out: not judged
    fallback: Fallback = "none"  # what is read instead of data that are too old
    clock_skew: str = "5m"  # by which the clocks of two machines may differ

    def __post_init__(self) -> None:
        for text in (self.max_age, self.clock_skew):
            if text is not None:
                duration(text)


@dataclass(frozen=True)
class Freshness:
    """The verdict on one release at one instant. Ages are since `window_end` and since `published_at`."""

    state: State
    sentence: str
    release_id: str | None = None
    window_end: dt.datetime | None = None  # of the oldest part; of one made before its window ended, when it was made
    published_at: dt.datetime | None = None
    age: dt.timedelta | None = None
    published_age: dt.timedelta | None = None

    @property
    def refused(self) -> bool:
        """Whether it is known to be too old, or not there."""
        return self.state in (State.STALE, State.MISSING)

    def record(self) -> dict[str, Any]:
        """As JSON values; ages in seconds."""
        return {
            "state": str(self.state),
            "sentence": self.sentence,
            "release_id": self.release_id,
            "window_end": self.window_end.isoformat() if self.window_end else None,
            "published_at": self.published_at.isoformat() if self.published_at else None,
            "age_seconds": self.age.total_seconds() if self.age is not None else None,
            "published_age_seconds": self.published_age.total_seconds() if self.published_age is not None else None,
        }


@dataclass(frozen=True)
class Answer:
    """What a request may use: the rows of `release`, or where there is none, `popular_items` best first."""

    freshness: Freshness
    source: Source
    release: Release | None = None
    popular_items: tuple[str, ...] = ()
    unheard: str | None = None  # why the bucket that releases come from was not heard: a newer one may be there

    def record(self) -> dict[str, Any]:
        """As JSON values: the verdict, and where to read from."""
        return self.freshness.record() | {
            "source": self.source,
            "popular_items": list(self.popular_items),
            "unheard": self.unheard,
        }


class FreshReader:
    """A release store read against a declared age; safe to share between threads, one for the life of a process."""

    def __init__(self, store: ReleaseStore, config: FreshnessConfig) -> None:
        self._store, self._config = store, config
        self._earlier: Release | None = None  # kept open from one request to the next

    def read(self, *, now: dt.datetime) -> Answer:
        """What to use at `now`, once per request.

        Fresh data, and those nobody declared an age for, are the live release's. Where it is stale or cannot be read,
        the fallback `previous` gives the release before if that is fresh, or if there is no other; `popularity` gives
        the items most acted on, and no release; `none` gives the live release, which is STALE, or nothing. Raises
        ValueError if `now` has no time zone. Where releases come from a bucket that does not answer, `unheard` says so.
        """
        answer = self._answer(now)
        return replace(answer, unheard=self._store.origin.unheard()) if self._store.origin else answer

    def _answer(self, now: dt.datetime) -> Answer:
        live, why = self._live()
        judged = Freshness(State.MISSING, why) if live is None else judge(live, self._config, now=now)
        if not judged.refused:
            return Answer(judged, "live", live)
        earlier = self._previous() if self._config.fallback != "none" else None
        if self._config.fallback == "popularity":
            known = live or earlier
            popular = known.popular_items if known else ()
            return Answer(judged, "popularity" if popular else "none", popular_items=popular)
        if earlier is not None:
            before = judge(earlier, self._config, now=now)
            if live is None or before.state == State.FRESH:
                instead = replace(before, sentence=f"{before.sentence}; it stands in, because {judged.sentence}")
                return Answer(instead, "previous", earlier)
        return Answer(judged, "live" if live else "none", live)

    def _live(self) -> tuple[Release | None, str]:
        """The live release, or why there is none."""
        try:
            return self._store.current(), ""
        except (MissingInput, ArtifactCorrupt, BucketUnreachable) as error:
            return None, str(error)

    def _previous(self) -> Release | None:
        """The release that the pointer names as the one before, with the last instant at which it went live."""
        try:
            pointer = read_pointer(self._store.root)
            if pointer is None or pointer.previous is None:
                return None
            if self._earlier is None or self._earlier.release_id != pointer.previous:
                served = [str(entry["at"]) for entry in pointer.history if entry["release_id"] == pointer.previous]
                at = dt.datetime.fromisoformat(served[-1]) if served else None
                self._earlier = replace(self._store.open(pointer.previous), published_at=at)
            return self._earlier
        except (MissingInput, ArtifactCorrupt, BucketUnreachable):
            return None


def open_reader(configuration: Configuration | None = None) -> FreshReader:
    """The reader of a configuration's store by its section [freshness]; by default of the one that `load` finds.

    A process without attractor.toml makes its own: `FreshReader(ReleaseStore(path), FreshnessConfig("36h"))`.
    """
    if configuration is None:
        from features.configuration import load

        configuration = load()
    from features.release_storage import open_configured

    config = configuration.section("freshness", FreshnessConfig)
    return FreshReader(open_configured(configuration), config)


def judge(release: Release, config: FreshnessConfig, *, now: dt.datetime) -> Freshness:
    """Whether a release's data are young enough at `now`.

    A release from the future, by its window or by when it went live, is STALE: one of the clocks is wrong, and nobody
    can say how old it is. Raises ValueError if `now` has no time zone.
    """
    if now.utcoffset() is None:
        raise ValueError(f"expected an instant with a time zone, got {now.isoformat()}")
    end, published_at = data_end(release), release.published_at
    told = Freshness(
        State.UNDECLARED,
        f"{release.release_id} knows what happened before {end.isoformat()}, {in_words(now - end)} ago",
        release.release_id,
        end,
        published_at,
        now - end,
        now - published_at if published_at else None,
    )
    newest = max(end, release.as_of, published_at or end, release.admitted_at or end)
    if newest - now > duration(config.clock_skew):
        why = f"{release.release_id} is dated {in_words(newest - now)} after now: a clock is wrong, its age unknown"
        return replace(told, state=State.STALE, sentence=why)
    if config.max_age is None:
        return replace(told, sentence=f"{told.sentence}; no [freshness] max_age is declared")
    state = State.FRESH if told.age <= duration(config.max_age) else State.STALE  # type: ignore[operator]
    return replace(told, state=state, sentence=f"{told.sentence}; max_age is {config.max_age}")


def data_end(release: Release) -> dt.datetime:
    """The instant up to which everything in a release is known: the end of its oldest part's window.

    A night that was made before its window ended knows nothing after it was made.
    """
    ends = [release.as_of, *(release.as_of_view(view) for view in release.manifest["contracts"])]
    return min([*ends, release.admitted_at] if release.admitted_at else ends)


def duration(text: str) -> dt.timedelta:
    """`90m`, `36h` or `3d` as a duration. Raises ValueError naming what came."""
    matched = _DURATION.fullmatch(text)
    if matched is None:
        raise ValueError(f"expected a duration such as 90m, 36h or 3d, got {text!r}")
    return dt.timedelta(**{_UNITS[matched[2]]: int(matched[1])})


def in_words(span: dt.timedelta) -> str:
    """A duration to the minute, such as `1 d 3 h 20 min`."""
    minutes = abs(int(span.total_seconds())) // 60
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (rest, "min")) if count]
    return ("-" if span < dt.timedelta(0) and parts else "") + (" ".join(parts) or "0 min")
