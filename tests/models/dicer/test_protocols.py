"""Splits keep what they promise: parts are disjoint, candidates are unseen, and the public data has its known sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from export.cli import cli
from features.errors import ConfigurationError, MissingInput, SocialMisalignment
from models.dicer.evaluation import Scorers
from models.dicer.histories import Lists, lists_of_pairs, unseen_of
from models.dicer.protocols import PROTOCOLS, EveryItem, SampledItems, Split, full, lastfm, paper

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the public data in {DATA}")


def pairs_of(part: object) -> set[tuple[int, int]]:
    assert isinstance(part, EveryItem | SampledItems)
    return {(int(u), i) for u, items in zip(part.truth.users, part.truth.positives, strict=True) for i in items}


def write_ciao(folder: Path, ratings: np.ndarray, trust: np.ndarray) -> Path:
    (folder / "ciao").mkdir(parents=True, exist_ok=True)
    savemat(folder / "ciao" / "rating.mat", {"rating": ratings})
    savemat(folder / "ciao" / "trustnetwork.mat", {"trustnetwork": trust})
    return folder


def write_lastfm(folder: Path, pairs: np.ndarray, friends: np.ndarray) -> Path:
    directory = folder / "hetrec2011-lastfm-2k"
    directory.mkdir(parents=True)
    for name, header, rows in (
        ("user_artists.dat", "userID\tartistID\tweight", np.column_stack([pairs, np.ones(len(pairs), np.int64)])),
        ("user_friends.dat", "userID\tfriendID", friends),
    ):
        np.savetxt(directory / name, rows, fmt="%d", delimiter="\t", header=header, comments="")
    return folder


@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_unseen_items_are_found_by_their_order(seed: int, users: int, items: int) -> None:
    had = np.random.default_rng(seed).random((users, items)) < 0.5
    unseen = unseen_of(lists_of_pairs(np.stack(np.nonzero(had)), users), items)
    for user in range(users):
        left = np.flatnonzero(~had[user])
        assert unseen.counts[user] == len(left)
        assert unseen.take(np.array([user]), np.arange(len(left))[None])[0].tolist() == left.tolist()


def test_paper_splits_distinct_pairs_and_samples_unseen_items(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pairs = np.argwhere(generator.random((6, 1500)) < 0.02) * 3 + 1  # ids with gaps
    ratings = np.column_stack([np.concatenate([pairs, pairs[:5]]), np.zeros((len(pairs) + 5, 3), np.int64)])
    data = write_ciao(tmp_path, ratings, np.array([[1, 4], [4, 7], [1, 999]]))
    split = paper(data, 0)
    parts = [set(map(tuple, split.interactions.T.tolist())), pairs_of(split.validation), pairs_of(split.test)]
    assert [len(part) for part in parts] == [len(pairs) - 2 * round(len(pairs) / 10)] + [round(len(pairs) / 10)] * 2
    assert len(set.union(*parts)) == len(pairs)
    assert split.friends.tolist() == [[0, 1], [1, 2]], "a relation to someone without ratings is left out"
    had = set.union(*parts)
    for part in (split.validation, split.test):
        assert isinstance(part, SampledItems)
        for place, (user, wanted) in enumerate(zip(part.truth.users, part.truth.positives, strict=True)):
            others = set(part.candidates.of(place).tolist()) - wanted
            assert len(others) == min(1000, split.items - sum(u == user for u, _ in had))
            assert not {(int(user), item) for item in others} & had
    again, other = paper(data, 0), paper(data, 1)
    assert np.array_equal(again.interactions, split.interactions)
    assert pairs_of(other.test) != parts[2]
    assert isinstance(again.test, SampledItems)
    assert isinstance(split.test, SampledItems)
    assert np.array_equal(again.test.candidates.values, split.test.candidates.values)


def recbole_counts(total: int) -> tuple[int, int, int]:
    """Its rule, step by step: round down, then one for test and one for validation while train keeps one."""
    train, validation, test = total - 2 * int(0.1 * total), int(0.1 * total), int(0.1 * total)
    if train > 1 and 0 < 0.1 * total < 1:
        train, test = train - 1, test + 1
    if train > 1 and 0 < 0.1 * total < 1:
        train, validation = train - 1, validation + 1
    return train, validation, test


def rows(excluded: Lists, users: int) -> set[tuple[int, int]]:
    """What is left out of the ranking, as pairs of a user and an item."""
    return {(user, int(item)) for user in range(users) for item in excluded.of(user)}


def test_lastfm_cuts_each_user_as_recbole_does(tmp_path: Path) -> None:
    totals = [1, 2, 3, 9, 10, 19, 20, 50]
    pairs = np.array([(user + 2, item + 1) for user, total in enumerate(totals) for item in range(total)])
    split = lastfm(write_lastfm(tmp_path, pairs, np.array([[2, 3], [3, 2]])), 0)
    validation, test = pairs_of(split.validation), pairs_of(split.test)
    for user, total in enumerate(totals):
        counts = tuple(
            sum(u == user for u, _ in part)
            for part in (set(map(tuple, split.interactions.T.tolist())), validation, test)
        )
        assert counts == recbole_counts(total)
    assert isinstance(split.validation, EveryItem)
    assert isinstance(split.test, EveryItem)
    trained = set(map(tuple, split.interactions.T.tolist()))
    assert rows(split.validation.excluded, split.users) == trained
    assert rows(split.test.excluded, split.users) == trained | validation


def test_a_sample_of_a_part_keeps_each_users_candidates(tmp_path: Path) -> None:
    pairs = np.argwhere(np.random.default_rng(1).random((30, 40)) < 0.5) + 1
    ratings = np.column_stack([pairs, np.ones((len(pairs), 3), np.int64)])
    part = paper(write_ciao(tmp_path, ratings, np.array([[1, 2]])), 0).test
    some = part.sample(7, seed=3)
    assert isinstance(part, SampledItems)
    assert isinstance(some, SampledItems)
    assert len(some.truth.users) == 7
    for place, user in enumerate(some.truth.users):
        whole = int(np.flatnonzero(part.truth.users == user)[0])
        assert some.candidates.of(place).tolist() == part.candidates.of(whole).tolist()
    taste = np.random.default_rng(2).random(40).astype(np.float32)
    scorers = Scorers(lambda users: np.tile(taste, (len(users), 1)), lambda users, items: taste[items])
    assert some.evaluate(scorers, (5,)).users == 7


@pytest.mark.parametrize("read", [paper, full, lastfm])
def test_missing_data_is_named(tmp_path: Path, read: Callable[[Path, int], Split]) -> None:
    with pytest.raises(MissingInput, match=str(tmp_path)):
        read(tmp_path, 0)


def test_a_fingerprint_tells_data_from_other_data(tmp_path: Path) -> None:
    pairs = np.argwhere(np.random.default_rng(1).random((30, 40)) < 0.5) + 1
    ratings = np.column_stack([pairs, np.ones((len(pairs), 3), np.int64)])
    trust = np.array([[1, 2], [2, 3]])
    first = paper(write_ciao(tmp_path / "a", ratings, trust), 0)
    assert paper(tmp_path / "a", 0).fingerprint() == first.fingerprint()
    others = (
        paper(tmp_path / "a", 1),
        paper(write_ciao(tmp_path / "b", ratings, trust[:1]), 0),
        paper(write_ciao(tmp_path / "c", ratings[1:], trust), 0),
        dataclasses.replace(first, test=first.validation),
        dataclasses.replace(first, validation=first.test),
    )
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def test_a_file_with_another_matrix_is_named(tmp_path: Path) -> None:
    write_ciao(tmp_path, np.ones((3, 2), np.int64), np.array([[1, 2]]))
    savemat(tmp_path / "ciao" / "trustnetwork.mat", {"trust": np.array([[1, 2]])})
    with pytest.raises(ConfigurationError, match=r"trustnetwork\.mat: expected a variable trustnetwork, got trust$"):
        paper(tmp_path, 0)


def test_a_network_that_names_nobody_of_the_ratings_is_found_out(tmp_path: Path) -> None:
    pairs = np.argwhere(np.random.default_rng(1).random((60, 40)) < 0.5) + 1
    trust = np.array([[user, user % 60 + 1] for user in range(1, 61)])
    first = paper(write_ciao(tmp_path / "a", pairs, trust), 0)
    assert (first.strangers, first.alignment.verdict) == (0, "unknown")
    other = paper(write_ciao(tmp_path / "b", pairs, trust + 1_000_000), 0)
    assert (other.strangers, other.friends.shape, other.alignment.verdict) == (60, (2, 0), "misaligned")
    friends = lastfm(write_lastfm(tmp_path, pairs, trust + 1_000_000), 0)
    assert (friends.strangers, friends.alignment.verdict) == (60, "misaligned")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("abc,1,1", r"valid\.csv: expected whole numbers: .*'abc'"),
        ("1.5,1,1", r"valid\.csv: expected whole numbers"),
        ("9,1,1", r"valid\.csv, line 3: expected a number from 0 to 2 in column 1, got 9"),
        ("0,-1,1", r"valid\.csv, line 3: expected a number from 0 to 3 in column 2, got -1"),
    ],
)
def test_a_broken_line_of_a_table_is_named(tmp_path: Path, line: str, told: str) -> None:
    folder = tmp_path / "ciao-eatnn-split"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.csv").write_text("uid,sid,count\n0,0,1\n1,2,1\n")
    (folder / "trust.csv").write_text("uid,sid\n0,1\n")
    (folder / "unique_uid_sub.txt").write_text("7\n8\n9\n")
    (folder / "unique_sid_sub.txt").write_text("5\n6\n7\n8\n")
    assert full(tmp_path, 0).users == 3
    (folder / "valid.csv").write_text(f"uid,sid,count\n0,0,1\n{line}\n")
    with pytest.raises(ConfigurationError, match=told):
        full(tmp_path, 0)


def test_a_damaged_matrix_is_named(tmp_path: Path) -> None:
    file = write_ciao(tmp_path, np.ones((300, 5)), np.array([[1, 2]])) / "ciao" / "rating.mat"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ConfigurationError, match=r"rating\.mat cannot be read as a MATLAB file"):
        paper(tmp_path, 0)
    write_ciao(tmp_path, np.array([[1, 2.5, 3]]), np.array([[1, 2]]))
    with pytest.raises(ConfigurationError, match=r"rating\.mat: expected whole numbers in rating, got 2\.5 as item"):
        paper(tmp_path, 0)


@needs_data
def test_the_trust_file_of_another_id_space_is_found_out(tmp_path: Path) -> None:
    other = loadmat(DATA / "ciao" / "trust_other_id_space.mat")["trust"]
    write_ciao(tmp_path, loadmat(DATA / "ciao" / "rating.mat")["rating"], other)
    told = ["benchmark", "dicer", "--protocol", "paper", "--arms", "popularity", "--data", str(tmp_path)]
    refused = CliRunner().invoke(cli, [*told, "--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")])
    assert isinstance(refused.exception, SocialMisalignment), refused.output
    assert "Nothing was run" in str(refused.exception)
    assert not (tmp_path / "results").exists()


@needs_data
@pytest.mark.parametrize(
    ("name", "users", "items", "pairs"),
    [("paper", 7375, 105114, 282650), ("full", 7267, 11211, 147995), ("lastfm", 1892, 17632, 92834)],
)
def test_public_data_has_its_known_sizes(name: str, users: int, items: int, pairs: int) -> None:
    split = PROTOCOLS[name].read(DATA, 0)
    facts = split.facts()
    assert (facts["users"], facts["items"]) == (users, items)
    assert split.alignment.verdict == "aligned"
    assert facts["lift"] == pytest.approx(split.alignment.lift, abs=1e-4)
    parts = [set(map(tuple, split.interactions.T.tolist())), pairs_of(split.validation), pairs_of(split.test)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == pairs
    if isinstance(split.validation, EveryItem) and isinstance(split.test, EveryItem):
        train, validation, test = parts
        known = train if name == "full" else train | validation  # as EATNN's program does, and as RecBole's
        assert rows(split.validation.excluded, users) == train
        assert rows(split.test.excluded, users) == known
        assert not known & test
