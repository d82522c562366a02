"""Whatever happens to a process or its disk while a release is made: a whole release is served, a re-run completes.

The steps are the system calls that the code makes, counted by `tests/system_calls.py`: each scenario is run once to
count them, then once more for each of them with the process killed there, or with a disk that fails from there on.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import release, retention
from export.champions import champion, champion_version
from export.drafts import DRAFTS
from export.verification import verify
from features.configuration import Configuration
from features.errors import ArtifactCorrupt, AttractorError, MissingInput
from features.releases import AUDIT, POINTER, READY, RELEASES, REPORT, STAGING, Release, open_releases
from tests.command_line import attractor
from tests.publication_scenarios import (
    DAY,
    NIGHT,
    NOON,
    SCENARIOS,
    SMALL,
    Action,
    nights,
    publishing,
    stage_refused,
    staging,
)
from tests.scored_nights import configuration_at, stage_night, tables
from tests.system_calls import KILL, Call, Decision, supervised
from tests.tiny_world import write_world

Tree = Mapping[str, bytes | None]


@pytest.fixture(autouse=True, scope="module")
def _few_kept() -> Iterator[None]:
    """Retention that has something to do after a few nights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "KEEP_RELEASES", 4)
        patch.setattr(retention, "KEEP_STAGED", 2)
        yield


# The world that a scenario is tried in


@dataclass(frozen=True)
class World:
    """One scenario: the state before, as a copy; what is done, call by call; what may be served and what must stand."""

    configuration: Configuration
    copy: Path
    action: Action
    calls: tuple[Call, ...]
    answers: tuple[object, object]  # what readers are told before and after
    after: Tree

    @property
    def state(self) -> Path:
        return self.configuration.state

    def restored(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.copy, self.state)

    def check(self) -> None:
        """A whole release is served, the one before or the one after; run again, everything is as if nothing was."""
        told = answer(self.configuration)
        assert told in self.answers
        self.action()
        assert tree(self.state) == self.after


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Path]:
    """A folder in which fsync costs nothing: a process that is killed loses nothing that it handed to the kernel."""
    with tempfile.TemporaryDirectory(dir=next((f for f in ("/dev/shm",) if os.access(f, os.W_OK)), None)) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda scenario: scenario.__name__)
def world(request: pytest.FixtureRequest, in_memory: Path) -> World:
    folder = in_memory / request.param.__name__
    configuration = configuration_at(folder)
    action = request.param(configuration)
    shutil.copytree(configuration.state, folder / "copy")
    before = answer(configuration)
    outcome = supervised(action, configuration.state)
    assert (outcome.killed, outcome.error) == (False, None)
    return World(
        configuration,
        folder / "copy",
        action,
        outcome.calls,
        (before, answer(configuration)),
        tree(configuration.state),
    )


def tree(folder: Path) -> Tree:
    """Every file below a folder with its bytes, every directory with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def answer(configuration: Configuration) -> object:
    """What a reader that starts now is told of every row, and which model the next night would use."""
    champions = champion(configuration, "karma").version if champion_version(configuration, "karma") else None
    try:
        return champions, contents(open_releases(configuration.releases).current())
    except MissingInput:
        return champions, None


def contents(opened: Release) -> tuple[str, str]:
    rows = {view: [batch.to_pylist() for batch in table.batches] for view, table in opened.tables.items()}
    return opened.release_id, str(rows)


def steps(calls: tuple[Call, ...]) -> list[int]:
    """The numbers of the calls before which the state differs from that before any other.

    A flush changes nothing that a process or its successor sees, so to stop there is to stop at the call after it; of a
    row of writes to one file the first and the second stand for all.
    """
    same = [one.name == "write" and one == other for one, other in zip(calls[1:], calls, strict=False)]
    third = [number >= 2 and same[number - 1] and same[number - 2] for number in range(len(calls))]
    return [number for number, call in enumerate(calls) if call.name != "fsync" and not third[number]]


# Killed, and a disk that fails


def test_a_kill_at_any_step_leaves_a_whole_release_and_a_rerun_completes(world: World) -> None:
    for step in steps(world.calls):
        world.restored()
        outcome = supervised(world.action, world.state, killing(step))
        assert outcome.killed, f"no call {step}"
        world.check()


def killing(step: int) -> Decision:
    return lambda number, call: KILL if number == step else 0


def full(call: Call) -> int:
    """What a full disk says: nothing new fits, deleting works."""
    return errno.ENOSPC if call.creates or call.name in {"write", "pwrite64", "writev", "sendfile", "rename"} else 0


def read_only(call: Call) -> int:
    return 0 if call.name == "fsync" else errno.EROFS


def test_a_disk_that_fails_at_any_step_is_named_leaves_a_whole_release_and_a_rerun_completes(world: World) -> None:
    """Full from a step on, or read-only from the next one on: every step that needs the disk meets one of the two."""
    for turn, step in enumerate(steps(world.calls)):
        refuse = (full, read_only)[turn % 2]
        if not refuse(world.calls[step]):
            continue  # a full disk lets it be, and refuses the same as at a later step
        world.restored()
        outcome = supervised(world.action, world.state, failing(step, refuse))
        assert not outcome.killed
        if outcome.error is not None:
            name, words = outcome.error
            refused = [final(path) for call in outcome.calls[step:] if refuse(call) for path in call.paths]
            refused += [path for file in refused for path in file.parents if path.parent.name == DRAFTS]
            assert name == "DiskFailed", words
            assert words in [f"{path}: {os.strerror(ERRORS[refuse])}" for path in refused]
        world.check()


def failing(step: int, refuse: Callable[[Call], int]) -> Decision:
    return lambda number, call: refuse(call) if number >= step else 0


ERRORS = {full: errno.ENOSPC, read_only: errno.EROFS}


def final(path: Path) -> Path:
    """The file that a temporary one is to become."""
    return path.with_name(re.sub(r"^\.tmp-(.*)-[0-9a-f]{8}$", r"\1", path.name))


def test_what_is_put_in_place_is_on_the_disk_before(world: World) -> None:
    """What a power cut would lose is followed from call to call, contents and names apart: nothing below what is
    renamed, nothing at all when READY or the pointer is, and nothing in the end."""
    unsure: set[tuple[str, Path]] = set()
    for call in (one for one in world.calls if one.paths[0].name != ".lock"):
        source, target = call.paths[0], call.paths[-1]
        if call.name == "fsync":
            unsure -= {("content", source), *(("name", path) for _, path in unsure if path.parent == source)}
        elif call.name == "rename":
            unsure -= {("name", source)}
            assert not {path for _, path in unsure if source in (path, *path.parents)}, f"{call} of unflushed content"
            assert not unsure or target.name not in (POINTER, READY), f"{call} before {unsure} are flushed"
            unsure |= {("name", target)}
        elif call.name not in {"unlink", "rmdir"}:  # what comes back after a power cut is removed again
            unsure |= {("content", source)} if call.name != "mkdir" else set()
            unsure |= {("name", source)} if call.creates else set()
    assert not {path for _, path in unsure if path.exists()}


# Two at once


@pytest.fixture(scope="module")
def both(in_memory: Path) -> Configuration:
    """One night live, a correction of it, two later nights, and a refused one staged."""
    configuration = configuration_at(in_memory / "both")
    nights(configuration, 2)
    for day in (2, 3):
        staging(configuration, NIGHT + day * DAY)()
    staging(configuration, NIGHT + 2 * DAY, metrics={})()
    stage_night(configuration, NIGHT + DAY, tables(seed=5, **SMALL))
    stage_refused(configuration, NIGHT + 4 * DAY)
    shutil.copytree(configuration.state, in_memory / "both" / "copy")
    return configuration


def rolling_back(configuration: Configuration, to: str) -> Action:
    return lambda: release.rollback(configuration, published_at=NOON, to=to)


def pairs(configuration: Configuration) -> dict[str, tuple[Action, Action]]:
    first, second = sorted(path.name for path in (configuration.releases / RELEASES).iterdir())
    waiting = sorted(path.name for path in (configuration.releases / STAGING).iterdir())
    corrected, third, fourth, refused = waiting
    return {
        "two nights": (publishing(configuration, third), publishing(configuration, fourth)),
        "one night twice": (publishing(configuration, third), publishing(configuration, third)),
        "a correction and a rollback": (publishing(configuration, corrected), rolling_back(configuration, second)),
        "a night and a rollback": (publishing(configuration, third), rolling_back(configuration, first)),
        "refused and forced": (publishing(configuration, refused), publishing(configuration, refused, "meant so")),
        "staging one night twice": (staging(configuration, NIGHT + 5 * DAY),) * 2,
        "staging and publishing": (staging(configuration, NIGHT + 2 * DAY), publishing(configuration, third)),
    }


ROUNDS = 6
PAIRS = ("two nights", "one night twice", "a correction and a rollback", "a night and a rollback", "refused and forced",
         "staging one night twice", "staging and publishing")  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_two_writers_at_once_are_one_order_or_the_other(both: Configuration, name: str) -> None:
    def restored() -> tuple[Action, Action]:
        shutil.rmtree(both.state)
        shutil.copytree(both.state.parent / "copy", both.state)
        return pairs(both)[name]

    def ended(errors: tuple[str | None, ...]) -> object:
        return errors, tree(both.state)

    one, other = restored()
    orders = [ended((failure(one), failure(other)))]
    one, other = restored()
    orders.append(ended((failure(other), failure(one))[::-1]))
    for _ in range(ROUNDS):
        found = ended(at_once(*restored()))
        assert found in orders
        assert answer(both)


def failure(action: Action) -> str | None:
    """The words of our own error, if the action ends with one."""
    try:
        action()
    except AttractorError as error:
        return str(error)
    return None


def at_once(*actions: Action) -> tuple[str | None, ...]:
    """Run each action in a process of its own, all let go together."""
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(len(actions)), [context.SimpleQueue() for _ in actions]

    def run(action: Action, queue: Any) -> None:
        barrier.wait()
        queue.put(failure(action))

    processes = [context.Process(target=run, args=pair) for pair in zip(actions, told, strict=True)]
    for process in processes:
        process.start()
    found = tuple(queue.get() for queue in told)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return found


# A flipped byte


def test_a_flipped_byte_anywhere_is_found_and_never_served(in_memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = configuration_at(in_memory / "flipped")
    nights(configuration, 2)
    write_world(in_memory / "flipped")
    right, live = answer(configuration), open_releases(configuration.releases).current().directory
    draw = np.random.default_rng(11)
    for file in [configuration.releases / POINTER, *sorted(path for path in live.rglob("*") if path.is_file())]:
        written = file.read_bytes()
        places = {0, 1, len(written) - 1, *draw.integers(0, len(written), 12).tolist()}
        for place in sorted(places):
            flip(file, written, place, int(draw.integers(1, 256)))
            assert any(file.name in told for one in verify(configuration) for told in one.damaged), f"{file} at {place}"
            if file.name in (AUDIT, REPORT):  # they are looked at by people, not served
                assert answer(configuration) == right
            else:
                with pytest.raises(ArtifactCorrupt, match=re.escape(file.name)):
                    open_releases(configuration.releases).current()
        assert attractor("verify", "--json", "--config", str(in_memory / "flipped" / "attractor.toml")) == 1
        assert file.name in capsys.readouterr().out
        file.write_bytes(written)
    assert not any(one.damaged for one in verify(configuration))
    assert answer(configuration) == right


def flip(file: Path, written: bytes, place: int, bits: int) -> None:
    file.write_bytes(written[:place] + bytes([written[place] ^ bits]) + written[place + 1 :])


def test_a_damaged_release_does_not_go_live(in_memory: Path) -> None:
    configuration = configuration_at(in_memory / "damaged")
    damaged, live = nights(configuration, 2)
    rows = configuration.releases / RELEASES / damaged / "karma_user_interest" / "rows.arrow"
    flip(rows, rows.read_bytes(), rows.stat().st_size // 2, 4)
    with pytest.raises(ArtifactCorrupt, match=re.escape(str(rows))):
        release.rollback(configuration, published_at=NOON)
    with pytest.raises(ArtifactCorrupt, match=re.escape(str(rows))):
        release.publish(configuration, damaged, published_at=NOON, force_reason="it is kept")
    waiting = str(staging(configuration, NIGHT + 2 * DAY)())
    index = configuration.releases / STAGING / waiting / "index" / "karma_item_embedding.rows.npy"
    flip(index, index.read_bytes(), index.stat().st_size - 1, 1)
    with pytest.raises(ArtifactCorrupt, match=re.escape(str(index))):
        release.publish(configuration, waiting, published_at=NOON)
    assert open_releases(configuration.releases).current().release_id == live
