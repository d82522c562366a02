"""Publishers and readers on different hosts: every host its own state, one bucket between them on a loopback S3 API."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from export import release, verification
from export.drafts import exclusive_store
from export.remote import Remote, remote_of
from export.retention import collect
from features.configuration import Configuration
from features.errors import BucketUnreachable, MissingInput
from features.freshness import FreshnessConfig, FreshReader
from features.release_bucket import PointerMoved, ReleaseBucket
from features.release_cache import ReleaseCopy, ReleasesConfig
from features.release_storage import open_configured
from features.releases import POINTER, READY, RELEASES, ReleaseStore, read_pointer, verify
from tests.s3_server import LoopbackS3, loopback_s3
from tests.scored_nights import configuration_at, publish_night, stage_night

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)


@pytest.fixture
def s3() -> Iterator[LoopbackS3]:
    with loopback_s3() as server:
        yield server


@dataclass
class Hosts:
    """Machines with nothing in common but the bucket."""

    folder: Path
    url: str

    def publisher(self, name: str) -> Configuration:
        return configuration_at(self.folder / name, releases={"url": self.url})

    def reader(self, name: str, clock: Clock, *, cached: int = 2) -> tuple[ReleaseStore, ReleaseCopy]:
        config = ReleasesConfig(self.url, recheck_seconds=5, cached_releases=cached)
        copy = ReleaseCopy(ReleaseBucket(self.url), self.folder / name, config, clock=clock)
        return ReleaseStore(self.folder / name, origin=copy), copy


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def hosts(s3: LoopbackS3, tmp_path: Path) -> Hosts:
    return Hosts(tmp_path, s3.url)


def until(holds: object, *, seconds: float = 20) -> None:
    """Wait for what a thread does beside the requests."""
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_a_night_published_on_one_host_is_served_on_another(hosts: Hosts) -> None:
    publisher, clock = hosts.publisher("a"), Clock()
    first = publish_night(publisher, NIGHT)
    store, _ = hosts.reader("reader", clock)
    served = store.current()
    assert (served.release_id, served.published_at) == (first, NOON)
    verify(served)

    second = publish_night(publisher, NIGHT + DAY)
    assert store.current().release_id == first  # looked at less than five seconds ago
    clock.seconds += 5
    until(lambda: store.current().release_id == second)
    assert read_pointer(store.root) == read_pointer(publisher.releases)

    release.rollback(publisher, published_at=NOON + DAY)
    clock.seconds += 5
    until(lambda: store.current().release_id == first)


def test_two_publishing_hosts_continue_each_other(hosts: Hosts) -> None:
    one, other = hosts.publisher("a"), hosts.publisher("b")
    first = publish_night(one, NIGHT)
    second = publish_night(other, NIGHT + DAY)
    pointer = read_pointer(other.releases)
    assert pointer is not None
    assert (pointer.release_id, pointer.previous) == (second, first)
    verify(open_configured(other).open(first))  # the other host has it now, for its audit
    earlier = stage_night(one, NIGHT - DAY)
    assert not release.publish(one, earlier, published_at=NOON).live  # though it never saw the second night before
    states = {entry["release_id"]: entry["state"] for entry in release.releases(hosts.publisher("c"))}
    assert states == {first: "previous", second: "live", earlier: "kept"}
    status = release.status(hosts.publisher("c"))
    assert (status["live"]["release_id"], status["previous"], status["kept"]) == (second, first, 3)


def test_a_rollback_on_a_host_that_never_published(hosts: Hosts) -> None:
    publisher = hosts.publisher("a")
    nights = [publish_night(publisher, NIGHT + number * DAY) for number in range(3)]
    elsewhere = hosts.publisher("b")
    back = release.rollback(elsewhere, published_at=NOON + 3 * DAY)
    assert (back.release_id, back.previous) == (nights[1], nights[0])
    assert release.rollback(publisher, published_at=NOON + 3 * DAY).release_id == nights[0]
    with pytest.raises(MissingInput, match="no release 2026-01-01"):
        release.rollback(elsewhere, published_at=NOON, to="2026-01-01-000000000000")


def test_a_lost_race_is_refused_and_changes_nothing(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other host publishes after this one read the pointer and before it replaces it."""
    one, other = hosts.publisher("a"), hosts.publisher("b")
    publish_night(one, NIGHT)
    mine = stage_night(one, NIGHT + DAY)
    theirs = ""
    pull = Remote.pull

    def overtaken(remote: Remote, *, fetch: bool = True) -> None:
        nonlocal theirs
        pull(remote, fetch=fetch)
        if not theirs:
            theirs = "being made"
            theirs = publish_night(other, NIGHT + 2 * DAY)

    monkeypatch.setattr(Remote, "pull", overtaken)
    with pytest.raises(PointerMoved, match="run the command again"):
        release.publish(one, mine, published_at=NOON + DAY)
    remote = ReleaseBucket(hosts.url).pointer()
    assert remote is not None
    assert remote.pointer.release_id == theirs
    again = release.publish(one, mine, published_at=NOON + DAY)
    assert not again.live
    assert "later night" in again.sentence
    assert read_pointer(one.releases) == remote.pointer


@pytest.mark.parametrize("fatal", ["upload", "replace_pointer", "local pointer"])
def test_a_kill_leaves_a_whole_release_served_and_a_rerun_completes(hosts: Hosts, fatal: str) -> None:
    """A child dies without unwinding before an upload, before the bucket's pointer, and between the two pointers."""
    publisher = hosts.publisher("a")
    before = publish_night(publisher, NIGHT)
    night = stage_night(publisher, NIGHT + DAY)
    child = subprocess.run([sys.executable, "-c", _dying(hosts, night, fatal)], check=False).returncode
    assert child == 9
    store, _ = hosts.reader("reader", Clock())
    assert store.current().release_id == (night if fatal == "local pointer" else before)
    verify(store.current())
    assert release.publish(publisher, night, published_at=NOON + DAY).live
    pointer = read_pointer(publisher.releases)
    assert pointer is not None
    assert [entry["release_id"] for entry in pointer.history] == [before, night]
    ReleaseBucket(hosts.url).verify(night)


def _dying(hosts: Hosts, night: str, fatal: str) -> str:
    """A publisher that exits in place of one step."""
    place = {
        "upload": "from features.release_bucket import ReleaseBucket as owner; name = 'upload'",
        "replace_pointer": "from features.release_bucket import ReleaseBucket as owner; name = 'replace_pointer'",
        "local pointer": "from export import remote as owner; name = 'write_sealed_json'",
    }[fatal]
    return (
        "import datetime as dt, os\nfrom pathlib import Path\nfrom export import release\n"
        "from tests.scored_nights import configuration_at\n"
        f"{place}\nsetattr(owner, name, lambda *_, **__: os._exit(9))\n"
        f"configuration = configuration_at(Path({str(hosts.folder / 'a')!r}), releases={{'url': {hosts.url!r}}})\n"
        f"release.publish(configuration, {night!r}, published_at=dt.datetime(2026, 3, 11, 12, tzinfo=dt.UTC))\n"
    )


def test_a_store_that_was_local_goes_to_an_empty_bucket_with_what_a_rollback_needs(hosts: Hosts) -> None:
    local = configuration_at(hosts.folder / "a")
    first, second = (publish_night(local, NIGHT + number * DAY) for number in range(2))
    third = publish_night(hosts.publisher("a"), NIGHT + 2 * DAY)
    assert ReleaseBucket(hosts.url).release_ids() == [second, third]
    assert release.rollback(hosts.publisher("b"), published_at=NOON + 3 * DAY).release_id == second
    assert first not in ReleaseBucket(hosts.url).release_ids()


def test_a_reader_serves_its_verified_copy_while_the_bucket_is_away_and_says_so(hosts: Hosts, s3: LoopbackS3) -> None:
    first = publish_night(hosts.publisher("a"), NIGHT)
    clock = Clock()
    store, copy = hosts.reader("reader", clock)
    reader = FreshReader(store, FreshnessConfig())
    assert reader.read(now=NOON).unheard is None
    s3.stop()
    clock.seconds += 65
    until(lambda: store.current() and copy.unheard() is not None)
    answer = reader.read(now=NOON)
    assert answer.release is not None
    assert answer.release.release_id == first
    assert f"not heard from {s3.url} for 65 s" in str(answer.record()["unheard"])

    restarted, _ = hosts.reader("reader", clock)  # another process: only the disk is left
    answer = FreshReader(restarted, FreshnessConfig()).read(now=NOON)
    assert answer.release is not None
    assert "since this process began" in str(answer.unheard)
    fresh, _ = hosts.reader("new reader", clock)
    with pytest.raises(BucketUnreachable, match=s3.bucket):
        fresh.current()
    assert FreshReader(fresh, FreshnessConfig()).read(now=NOON).freshness.state == "MISSING"

    s3.start()
    clock.seconds += 5
    until(lambda: restarted.current() and reader.read(now=NOON).unheard is None)


def test_what_does_not_verify_is_never_served(hosts: Hosts, s3: LoopbackS3) -> None:
    publisher, clock = hosts.publisher("a"), Clock()
    first = publish_night(publisher, NIGHT)
    store, copy = hosts.reader("reader", clock)
    assert store.current().release_id == first
    second = publish_night(publisher, NIGHT + DAY)
    path = f"{s3.bucket}/attractor/{RELEASES}/{second}/karma_user_interest/rows.arrow"
    content = s3.files.cat_file(path)
    s3.files.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    copy.refresh()
    assert store.current().release_id == first
    assert "rows.arrow" in str(copy.unheard())
    assert not (store.root / RELEASES / second).exists()
    s3.files.pipe_file(path, content)
    copy.refresh()
    assert store.current().release_id == second


def test_a_pointer_that_is_gone_or_damaged_leaves_what_is_served(hosts: Hosts, s3: LoopbackS3) -> None:
    first = publish_night(hosts.publisher("a"), NIGHT)
    store, copy = hosts.reader("reader", Clock())
    assert store.current().release_id == first
    s3.files.pipe_file(f"{s3.bucket}/attractor/{POINTER}", b"{}")
    copy.refresh()
    assert (store.current().release_id, "not a pointer" in str(copy.unheard())) == (first, True)
    s3.files.rm_file(f"{s3.bucket}/attractor/{POINTER}")
    copy.refresh()
    assert (store.current().release_id, "no release is published" in str(copy.unheard())) == (first, True)


def test_eviction_keeps_what_is_served_what_was_before_and_what_somebody_holds(hosts: Hosts) -> None:
    publisher = hosts.publisher("a")
    store, copy = hosts.reader("reader", Clock(), cached=0)
    nights = [publish_night(publisher, NIGHT)]
    held = store.current()
    for number in range(1, 4):
        nights.append(publish_night(publisher, NIGHT + number * DAY))
        copy.refresh()
    assert sorted(path.name for path in (store.root / RELEASES).iterdir()) == nights[-2:]
    vectors, found = held.embeddings("karma_user_interest", "interest_embedding", ["user 3"])
    assert (found.tolist(), float((vectors**2).sum())) == ([True], pytest.approx(1))
    assert store.open(nights[0]).release_id == nights[0]  # fetched again


def test_a_reader_on_the_publishing_host_downloads_nothing(hosts: Hosts) -> None:
    publisher = hosts.publisher("a")
    name = publish_night(publisher, NIGHT)
    opened = open_configured(publisher)
    served = opened.current()
    rows = Path(RELEASES, name, "karma_user_interest", "rows.arrow")
    assert os.path.samefile(opened.root / rows, publisher.releases / rows)
    assert served.release_id == name


def test_gc_keeps_three_the_live_one_and_the_one_before_in_the_bucket_and_on_disk(hosts: Hosts) -> None:
    publisher = hosts.publisher("a")
    nights = [publish_night(publisher, NIGHT + number * DAY) for number in range(5)]
    release.rollback(publisher, published_at=NOON + 5 * DAY, to=nights[0])
    release.rollback(publisher, published_at=NOON + 5 * DAY, to=nights[4])
    now = NOON + 6 * DAY
    with pytest.raises(ValueError, match="at least 3"):
        collect(publisher, keep=2, now=now)
    planned = collect(publisher, keep=3, now=now, dry_run=True)
    assert len(ReleaseBucket(hosts.url).release_ids()) == 5
    done = collect(publisher, keep=3, now=now)
    assert done == planned
    pointer = read_pointer(publisher.releases)
    assert pointer is not None
    expected = sorted({pointer.release_id, *([pointer.previous] if pointer.previous else []), *nights[2:]})
    assert list(done.kept) == expected
    assert ReleaseBucket(hosts.url).release_ids() == expected
    assert sorted(path.name for path in (publisher.releases / RELEASES).iterdir()) == expected
    found = ReleaseBucket(hosts.url).pointer()
    assert found is not None
    assert found.retiring == ()


def test_nobody_goes_back_to_what_is_being_deleted(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One host is killed between announcing a deletion and completing it; another asks for what is going."""
    one, other = hosts.publisher("a"), hosts.publisher("b")
    nights = [publish_night(one, NIGHT + number * DAY) for number in range(5)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ReleaseBucket, "delete", _interrupted)
        collect(one, keep=3, now=NOON + 6 * DAY)
    with pytest.raises(MissingInput, match="being deleted"):
        release.rollback(other, published_at=NOON + 6 * DAY, to=nights[0])
    assert collect(other, keep=3, now=NOON + 6 * DAY).kept == tuple(nights[2:])
    assert ReleaseBucket(hosts.url).release_ids() == nights[2:]
    with pytest.raises(MissingInput, match=f"no release {nights[0]}"):
        release.rollback(other, published_at=NOON + 6 * DAY, to=nights[0])


def _interrupted(bucket: ReleaseBucket, release_id: str) -> None:
    raise KeyboardInterrupt


def test_gc_and_a_rollback_at_once_never_leave_a_pointer_at_nothing(hosts: Hosts) -> None:
    """Each reads the pointer before the other writes: whoever writes second is refused, in both orders."""
    one, other = hosts.publisher("a"), hosts.publisher("b")
    nights = [publish_night(one, NIGHT + number * DAY) for number in range(5)]
    pointer = read_pointer(one.releases)
    assert pointer is not None
    collecting = remote_of(one)
    assert collecting is not None
    with exclusive_store(one.releases):
        collecting.pull()
        release.rollback(other, published_at=NOON + 5 * DAY, to=nights[0])
        with pytest.raises(PointerMoved):
            collecting.delete(pointer, nights[:2])
    assert ReleaseBucket(hosts.url).release_ids() == nights
    store, _ = hosts.reader("reader", Clock())
    assert store.current().release_id == nights[0]


def test_what_a_killed_upload_left_is_collected_after_a_day(hosts: Hosts, s3: LoopbackS3) -> None:
    publisher = hosts.publisher("a")
    publish_night(publisher, NIGHT)
    s3.files.pipe_file(f"{s3.bucket}/attractor/{RELEASES}/2026-03-01-0123456789ab/{READY}.part", b"x")
    today = dt.datetime.now(dt.UTC)
    assert collect(publisher, keep=3, now=today).unfinished == ()
    assert collect(publisher, keep=3, now=today + 2 * DAY).unfinished == ("2026-03-01-0123456789ab",)
    assert not s3.files.exists(f"{s3.bucket}/attractor/{RELEASES}/2026-03-01-0123456789ab")


def test_verify_reads_the_bucket_too(hosts: Hosts, s3: LoopbackS3) -> None:
    publisher = hosts.publisher("a")
    night = publish_night(publisher, NIGHT)
    here = [one for one in verification.verify(publisher) if not one.name.startswith("s3://")]
    assert all(not one.damaged for one in verification.verify(publisher))
    path = f"{s3.bucket}/attractor/{RELEASES}/{night}/index/karma_user_interest.rows.npy"
    content = s3.files.cat_file(path)
    s3.files.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    found = verification.verify(publisher)
    assert [one for one in found if not one.name.startswith("s3://")] == here
    assert {one.name: len(one.damaged) for one in found if one.name.startswith("s3://")} == {
        f"{s3.url}/{POINTER}": 0,
        f"{s3.url}/{RELEASES}/{night}": 1,
    }
    elsewhere = hosts.publisher("b")
    assert [bool(one.damaged) for one in verification.verify(elsewhere, night)] == [True]
    s3.files.rm(f"{s3.bucket}/attractor/{RELEASES}/{night}", recursive=True)
    assert any("which is not there" in sentence for one in verification.verify(elsewhere) for sentence in one.damaged)
    with pytest.raises(MissingInput):
        verification.verify(elsewhere, night)


def test_a_publication_without_its_bucket_changes_nothing(hosts: Hosts, s3: LoopbackS3) -> None:
    publisher = hosts.publisher("a")
    first = publish_night(publisher, NIGHT)
    night = stage_night(publisher, NIGHT + DAY)
    s3.stop()
    with pytest.raises(BucketUnreachable, match=s3.bucket):
        release.publish(publisher, night, published_at=NOON + DAY)
    s3.start()
    pointer = read_pointer(publisher.releases)
    assert pointer is not None
    assert pointer.release_id == first
    assert release.publish(publisher, night, published_at=NOON + DAY).live
