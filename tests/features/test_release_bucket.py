"""Releases in a bucket, over the S3 API of a server on loopback: whole uploads, one pointer, deletion, damage."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from features.errors import ArtifactCorrupt, BucketUnreachable, ConfigurationError, MissingInput
from features.release_bucket import PointerMoved, ReleaseBucket
from features.releases import MANIFEST, POINTER, READY, RELEASES, Pointer, open_release
from tests.s3_server import LoopbackS3, loopback_s3
from tests.scored_nights import configuration_at, publish_night

NIGHT = dt.date(2026, 3, 10)
NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)


@pytest.fixture
def s3() -> Iterator[LoopbackS3]:
    with loopback_s3() as server:
        yield server


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release on disk."""
    configuration = configuration_at(tmp_path_factory.mktemp("publisher"))
    return configuration.releases / RELEASES / publish_night(configuration, NIGHT)


def pointer_at(release_id: str, *, at: dt.datetime = NOON) -> Pointer:
    return Pointer(release_id, at, None, ())


def objects(s3: LoopbackS3, release_id: str) -> dict[str, bytes]:
    prefix = f"{s3.bucket}/attractor/{RELEASES}/{release_id}/"
    return {path.removeprefix(prefix): s3.files.cat_file(path) for path in s3.files.find(prefix)}


def test_a_release_comes_back_as_it_was(s3: LoopbackS3, released: Path, tmp_path: Path) -> None:
    bucket = ReleaseBucket(s3.url)
    assert bucket.release_ids() == []
    bucket.upload(released)
    assert bucket.release_ids() == [released.name]
    bucket.verify(released.name)
    bucket.download(released.name, tmp_path)
    assert open_release(tmp_path).release_id == released.name
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {
        path.relative_to(released): path.read_bytes() for path in released.rglob("*") if path.is_file()
    }
    with pytest.raises(MissingInput, match="no release 2026-01-01"):
        bucket.download("2026-01-01-000000000000", tmp_path)


def test_a_killed_upload_is_no_release_and_a_second_one_completes_it(s3: LoopbackS3, released: Path) -> None:
    """After the first object, in the middle and before READY; damaged leftovers are replaced."""
    bucket = ReleaseBucket(s3.url)
    bucket.upload(released)
    whole = objects(s3, released.name)
    names = [name for name in whole if name != READY]
    for count in (0, len(names) // 2, len(names) - 1):
        bucket.delete(released.name)
        for number, name in enumerate(names[: count + 1]):
            content = whole[name] if number % 2 else whole[name] + b"torn"
            s3.files.pipe_file(f"{s3.bucket}/attractor/{RELEASES}/{released.name}/{name}", content)
        assert bucket.release_ids() == []
        bucket.upload(released)
        assert objects(s3, released.name) == whole


def test_a_flipped_byte_of_any_object_is_found(s3: LoopbackS3, released: Path, tmp_path: Path) -> None:
    bucket = ReleaseBucket(s3.url)
    bucket.upload(released)
    for name, content in objects(s3, released.name).items():
        path = f"{s3.bucket}/attractor/{RELEASES}/{released.name}/{name}"
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        s3.files.pipe_file(path, bytes(flipped))
        with pytest.raises(ArtifactCorrupt):
            bucket.verify(released.name)
        s3.files.pipe_file(path, content)
    bucket.verify(released.name)
    s3.files.rm_file(path)
    with pytest.raises((ArtifactCorrupt, MissingInput)):
        bucket.verify(released.name)


def test_a_disk_that_gives_other_bytes_than_the_manifest_is_not_published(
    s3: LoopbackS3, released: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(released, tmp_path / released.name)
    rows = damaged / "karma_user_interest" / "rows.arrow"
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactCorrupt, match=r"rows\.arrow"):
        ReleaseBucket(s3.url).upload(damaged)
    assert ReleaseBucket(s3.url).release_ids() == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_a_manifest_that_leads_out_of_the_directory_is_refused(
    s3: LoopbackS3, released: Path, tmp_path: Path, name: str
) -> None:
    bucket = ReleaseBucket(s3.url)
    bucket.upload(released)
    manifest = json.loads((released / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    s3.files.pipe_file(f"{s3.bucket}/attractor/{RELEASES}/{released.name}/{MANIFEST}", json.dumps(manifest).encode())
    target = tmp_path / "inside"
    target.mkdir()
    with pytest.raises(ArtifactCorrupt, match="inside the directory"):
        bucket.download(released.name, target)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_the_pointer_is_replaced_only_as_it_was_read(s3: LoopbackS3) -> None:
    bucket = ReleaseBucket(s3.url)
    first, second = (pointer_at(f"2026-03-1{number}-0123456789ab") for number in range(2))
    assert bucket.pointer() is None
    assert bucket.pointer_etag() is None
    etag = bucket.replace_pointer(first, retiring=(), expected=None)
    assert bucket.pointer_etag() == etag
    with pytest.raises(PointerMoved, match="another publisher made 2026-03-10"):
        bucket.replace_pointer(second, retiring=(), expected=None)
    newer = bucket.replace_pointer(second, retiring=("2026-03-01-0123456789ab",), expected=etag)
    with pytest.raises(PointerMoved, match="run the command again"):
        bucket.replace_pointer(first, retiring=(), expected=etag)
    found = bucket.pointer()
    assert found is not None
    assert (found.pointer, found.retiring, found.etag) == (second, ("2026-03-01-0123456789ab",), newer)


def test_a_second_attempt_after_a_lost_answer_is_no_lost_race(s3: LoopbackS3) -> None:
    bucket, pointer = ReleaseBucket(s3.url), pointer_at("2026-03-10-0123456789ab")
    etag = bucket.replace_pointer(pointer, retiring=(), expected=None)
    assert bucket.replace_pointer(pointer, retiring=(), expected=None) == etag


def test_of_many_publishers_at_once_one_wins_each_time(s3: LoopbackS3) -> None:
    """Eight threads replace the pointer as it was read, five times over: one of them each time, and it stands."""
    bucket, expected = ReleaseBucket(s3.url), None
    for turn in range(5):
        won: list[str] = []
        lost: list[str] = []
        read = expected

        def race(number: int, read: str | None = read, won: list[str] = won, lost: list[str] = lost) -> None:
            mine = pointer_at(f"2026-03-10-{number:012x}", at=NOON + dt.timedelta(hours=len(won)))
            try:
                bucket.replace_pointer(mine, retiring=(), expected=read)
                won.append(mine.release_id)
            except PointerMoved:
                lost.append(mine.release_id)

        threads = [threading.Thread(target=race, args=(8 * turn + number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = bucket.pointer()
        assert found is not None
        assert (won, len(lost)) == ([found.pointer.release_id], 7)
        expected = found.etag


def test_a_damaged_pointer_is_an_error_and_no_pointer(s3: LoopbackS3) -> None:
    bucket = ReleaseBucket(s3.url)
    bucket.replace_pointer(pointer_at("2026-03-10-0123456789ab"), retiring=(), expected=None)
    path = f"{s3.bucket}/attractor/{POINTER}"
    content = s3.files.cat_file(path)
    for damaged in (content.replace(b"2026-03-10-0", b"2026-03-10-1"), b"", b"{}", b"\xff"):
        s3.files.pipe_file(path, damaged)
        with pytest.raises(ArtifactCorrupt, match="not a pointer that was written"):
            bucket.pointer()


def test_only_old_unfinished_uploads_are_told(s3: LoopbackS3, released: Path) -> None:
    bucket = ReleaseBucket(s3.url)
    bucket.upload(released)
    s3.files.pipe_file(f"{s3.bucket}/attractor/{RELEASES}/2026-03-01-0123456789ab/{MANIFEST}", b"{}")
    s3.files.pipe_file(f"{s3.bucket}/attractor/{RELEASES}/not a release/{MANIFEST}", b"{}")
    hour, now = dt.timedelta(hours=1), dt.datetime.now(dt.UTC)
    assert bucket.unfinished(before=now + hour) == ["2026-03-01-0123456789ab"]
    assert bucket.unfinished(before=now - hour) == []


def test_a_bucket_that_does_not_answer_or_refuses_is_said_to(s3: LoopbackS3, released: Path) -> None:
    missing = ReleaseBucket("s3://no-such-bucket-here/attractor")
    with pytest.raises(BucketUnreachable, match="no-such-bucket-here"):
        missing.replace_pointer(pointer_at("2026-03-10-0123456789ab"), retiring=(), expected=None)
    s3.stop()
    bucket = ReleaseBucket(s3.url)
    for call in (bucket.pointer, bucket.pointer_etag, bucket.release_ids, lambda: bucket.upload(released)):
        with pytest.raises(BucketUnreachable, match=s3.bucket):
            call()
    s3.start()
    assert bucket.pointer() is None


@pytest.mark.parametrize("url", ["", "s3://", "/local", "https://bucket/prefix", "gs://bucket"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        ReleaseBucket(url)


def test_what_moved_is_told_by_its_content(s3: LoopbackS3) -> None:
    """The same content has the same ETag: going back to it is no other pointer."""
    bucket, pointer = ReleaseBucket(s3.url), pointer_at("2026-03-10-0123456789ab")
    first = bucket.replace_pointer(pointer, retiring=(), expected=None)
    second = bucket.replace_pointer(replace(pointer, previous="2026-03-09-0123456789ab"), retiring=(), expected=first)
    assert first != second
