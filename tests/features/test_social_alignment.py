"""The alignment check: laws, a slow reference, planted communities, and every real graph at hand, right and wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import io

from features.social_alignment import MOST_PAIRS, social_alignment

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CIAO, EATNN, LASTFM = DATA / "ciao", DATA / "ciao-eatnn-split", DATA / "hetrec2011-lastfm-2k"
Ints = NDArray[np.int64]
Graph = tuple[Ints, Ints]  # friends [2, n] and interactions [2, m]

numbers = st.integers(0, 7)
graphs = st.tuples(
    st.lists(st.tuples(numbers, numbers), max_size=20), st.lists(st.tuples(numbers, numbers), max_size=30)
)


def columns(pairs: list[tuple[int, int]]) -> Ints:
    return np.array(pairs, np.int64).reshape(-1, 2).T


def communities(users: int = 600, *, size: int = 30, own: float = 0.6, friends: int = 6, seed: int = 0) -> Graph:
    """Friends are of one community, and a share `own` of a user's 12 items is of the community's 40."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), friends)
    friend = np.minimum(user // size * size + rng.integers(size, size=len(user)), users - 1)
    owner = np.repeat(np.arange(users), 12)
    local = owner // size * 40 + rng.integers(40, size=len(owner))
    item = np.where(rng.random(len(owner)) < own, local, rng.integers(40 * users // size, size=len(owner)))
    return np.stack([user, friend]), np.stack([owner, item])


def renumbered(friends: Ints, interactions: Ints, *, seed: int) -> Ints:
    """The friendships of other people: user ids dealt out anew."""
    ids = np.unique(np.concatenate([friends.ravel(), interactions[0]]))
    return np.random.default_rng(seed).permutation(ids)[np.searchsorted(ids, friends)]


def expected_lift(friends: Ints, interactions: Ints) -> float:
    """By loops: what friends share over what any two ends of different users share, every end as likely."""
    pairs = {(min(a, b), max(a, b)) for a, b in friends.T.tolist() if a != b}
    histories: dict[int, set[int]] = {}
    for user, item in interactions.T.tolist():
        histories.setdefault(user, set()).add(item)

    def shared(a: int, b: int) -> int:
        return len(histories.get(a, set()) & histories.get(b, set()))

    ends = [end for pair in pairs for end in pair]
    by_chance = [shared(a, b) for a in ends for b in ends if a != b]
    return float(np.mean([shared(a, b) for a, b in pairs]) / np.mean(by_chance))


def test_the_lift_is_that_of_the_slow_reference() -> None:
    friends, interactions = communities(120, size=20, friends=3)
    found = social_alignment(friends, interactions, seed=0)
    assert found.lift is not None
    assert found.spread is not None
    standard_error = found.spread / 20**0.5  # of the mean over twenty shuffles
    assert found.lift == pytest.approx(expected_lift(friends, interactions), rel=4 * standard_error)


@settings(deadline=None, max_examples=60)
@given(graphs, st.randoms(use_true_random=False))
def test_order_direction_repeats_and_names_do_not_matter(
    graph: tuple[list[tuple[int, int]], list[tuple[int, int]]], random: object
) -> None:
    friends, interactions = graph
    plain = social_alignment(columns(friends), columns(interactions), seed=3)
    again = [*reversed(friends), *((b, a) for a, b in friends), (5, 5)]
    other = social_alignment(columns(again) * 10 - 7, columns(interactions * 2) * 10 - 7, seed=3)
    # A self-edge names a user, who counts among all.
    assert (other.verdict, other.lift, other.spread, other.correlation, other.pairs) == (
        plain.verdict,
        plain.lift,
        plain.spread,
        plain.correlation,
        plain.pairs,
    )
    assert plain.verdict == "unknown"
    assert plain.pairs == len({(min(a, b), max(a, b)) for a, b in friends if a != b})


def test_communities_align_and_other_peoples_friendships_do_not() -> None:
    friends, interactions = communities()
    assert social_alignment(friends, interactions, seed=0).verdict == "aligned"
    for seed in range(5):
        wrong = social_alignment(renumbered(friends, interactions, seed=seed), interactions, seed=0)
        assert wrong.verdict == "misaligned", wrong.sentence


def test_the_figures_are_in_the_sentence() -> None:
    found = social_alignment(*communities(), seed=0)
    assert f"over {found.pairs:,} pairs friends share {found.lift:.2f} times" in found.sentence
    assert f"correlate at {found.correlation:.2f}" in found.sentence
    assert "100.0% of the users with friends have a history" in found.sentence


def test_friends_a_little_more_alike_than_chance_are_weak() -> None:
    friends, interactions = communities(2000, own=0.07, friends=20)
    found = social_alignment(friends, interactions, seed=0)
    assert found.verdict == "weak", found
    assert found.lift is not None
    assert 1.3 < found.lift < 1.4


def test_active_people_with_many_friends_are_reason_enough_not_to_refuse() -> None:
    rng = np.random.default_rng(0)
    weight = rng.pareto(1.5, 800) + 1
    ends = rng.choice(800, (2, 6000), p=weight / weight.sum())
    owner = rng.choice(800, 12_000, p=weight / weight.sum())
    interactions = np.stack([owner, rng.integers(400, size=len(owner))])
    found = social_alignment(ends, interactions, seed=0)
    assert found.correlation is not None
    assert found.correlation > 0.5
    assert found.verdict == "weak"
    assert social_alignment(renumbered(ends, interactions, seed=1), interactions, seed=0).verdict == "misaligned"


def test_few_people_and_few_items_in_common_tell_nothing() -> None:
    friends, interactions = communities(60, size=10)
    assert social_alignment(renumbered(friends, interactions, seed=0), interactions, seed=0).verdict == "unknown"
    sparse = np.stack([np.arange(400), np.arange(400) // 2])  # two by two, of no one else's items
    neighbours = np.stack([np.arange(399), np.arange(1, 400)])
    assert social_alignment(renumbered(neighbours, sparse, seed=0), sparse, seed=0).verdict == "unknown"


def test_nothing_to_compare_is_unknown_and_has_no_figures() -> None:
    none, some = np.zeros((2, 0), np.int64), communities()[1]
    alone = social_alignment(none, some, seed=0)
    assert (alone.verdict, alone.pairs, alone.lift, alone.correlation) == ("unknown", 0, None, None)
    assert alone.sentence == "there are no friends to compare"
    assert social_alignment(none, none, seed=0).verdict == "unknown"
    unseen = social_alignment(communities()[0], none, seed=0)
    assert (unseen.verdict, unseen.lift, unseen.history_share) == ("unknown", None, 0.0)


def test_friends_of_whom_no_one_has_a_history_are_of_another_id_space() -> None:
    friends, interactions = communities()
    apart = social_alignment(friends + 10_000, interactions, seed=0)
    assert apart.verdict == "misaligned"
    assert "0.0% of the users with friends have a history, 50.0% of all users" in apart.sentence
    early = social_alignment(friends, interactions[:, interactions[0] % 20 == 0], seed=0, users=600)
    assert early.verdict == "unknown"  # the first nights of a market: histories of few, but of these as of any


def test_relations_of_nobody_who_is_there_are_of_another_id_space() -> None:
    friends, interactions = communities()
    none = friends[:, :0]
    apart = social_alignment(none, interactions, seed=0, strangers=1007)
    assert apart.verdict == "misaligned"
    assert apart.sentence == "there are no friends to compare: 1,007 relations name users that there are not"
    few = social_alignment(none, interactions, seed=0, strangers=49)
    assert (few.verdict, few.strangers) == ("unknown", 49)
    judged = social_alignment(friends, interactions, seed=0, strangers=10_000)  # what is left tells
    assert judged.verdict == social_alignment(friends, interactions, seed=0).verdict == "aligned"
    assert judged.sentence.endswith("; 10,000 relations name users that there are not")


def test_of_many_pairs_a_sample_tells_the_same() -> None:
    friends, interactions = communities(8000, friends=10)
    found = [social_alignment(friends, interactions, seed=seed) for seed in (0, 1)]
    assert found[0].pairs > MOST_PAIRS
    assert found[0].lift != found[1].lift
    assert found[0].lift == pytest.approx(found[1].lift, rel=0.1)
    assert found[0].verdict == found[1].verdict == "aligned"
    assert social_alignment(friends, interactions, seed=0) == found[0]


def matrix(path: Path, name: str) -> Ints:
    found: Ints = io.loadmat(path)[name].astype(np.int64).T
    return found


def table(path: Path, *names: str, delimiter: str) -> Ints:
    with path.open(encoding="utf-8", newline="") as stream:
        return np.array([[int(row[name]) for name in names] for row in csv.DictReader(stream, delimiter=delimiter)]).T


def eatnn() -> Graph:
    parts = [table(EATNN / f"{name}.csv", "uid", "sid", delimiter=",") for name in ("train", "valid", "test")]
    return table(EATNN / "trust.csv", "uid", "sid", delimiter=","), np.concatenate(parts, axis=1)


def lastfm(file: str) -> Graph:
    friends = table(LASTFM / "user_friends.dat", "userID", "friendID", delimiter="\t")
    return friends, table(LASTFM / file, "userID", "artistID", delimiter="\t")


@pytest.mark.skipif(not CIAO.is_dir(), reason=f"{CIAO} is not here")
def test_ciao_aligns_and_the_trust_file_of_another_id_space_does_not() -> None:
    ratings, trust = matrix(CIAO / "rating.mat", "rating")[:2], matrix(CIAO / "trustnetwork.mat", "trustnetwork")
    right = social_alignment(trust, ratings, seed=0)
    assert (right.verdict, right.pairs) == ("aligned", 85_205)
    assert right.lift == pytest.approx(1.59, abs=0.05)
    assert right.correlation == pytest.approx(0.59, abs=0.02)
    other = matrix(CIAO / "trust_other_id_space.mat", "trust")
    assert other.shape[1] == 57_544
    wrong = social_alignment(other, ratings, seed=0)
    assert wrong.verdict == "misaligned"
    assert wrong.lift == pytest.approx(1.08, abs=0.05)
    assert social_alignment(renumbered(trust, ratings, seed=0), ratings, seed=0).verdict == "misaligned"
    off_by_one = social_alignment(trust % 7375 + 1, ratings, seed=0)  # neighbouring ids of Ciao are alike
    assert off_by_one.verdict == "weak"


@pytest.mark.parametrize(
    ("directory", "graph", "lift"),
    [
        (EATNN, eatnn, 1.57),
        (LASTFM, lambda: lastfm("user_artists.dat"), 1.92),
        (LASTFM, lambda: lastfm("user_taggedartists.dat"), 2.26),
    ],
    ids=["eatnn split of ciao", "last.fm listens", "last.fm tags"],
)
def test_other_real_graphs_align_and_with_shuffled_ids_do_not(directory: Path, graph: object, lift: float) -> None:
    if not directory.is_dir():
        pytest.skip(f"{directory} is not here")
    assert callable(graph)
    friends, interactions = graph()
    found = social_alignment(friends, interactions, seed=0)
    assert found.verdict == "aligned"
    assert found.lift == pytest.approx(lift, rel=0.04)
    assert social_alignment(renumbered(friends, interactions, seed=0), interactions, seed=0).verdict == "misaligned"
