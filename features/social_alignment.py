"""Does a social graph belong to the people whose events there are? Two figures tell, and chance tells how surely.

Friends share more items than the same friendships dealt out anew (the lift), and in many communities active people
have more friends (the correlation). A graph whose user ids are of another id space has neither.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from features.errors import SocialMisalignment

log = logging.getLogger(__name__)

Indices = NDArray[np.int64]
Verdict = Literal["aligned", "weak", "misaligned", "unknown"]

MOST_PAIRS = 50_000
"""Friendships compared; of more, this many are drawn. Chance then moves the lift by about one per cent."""
MOST_USERS = 100_000
"""Users whose activity and degree are correlated; of more, this many are drawn."""

# Measured at full size (lift, correlation). Aligned: Ciao 1.59, 0.59; its EATNN split 1.57, 0.50; Last.fm listens
# 1.92, 0.04; Last.fm tags 2.26, 0.01; synthetic markets 1.44 to 7.55, about 0. Misaligned: the 57,544-edge Ciao trust
# file 1.08, 0.16, on the EATNN split 1.06, 0.07; shuffled ids of each 0.98 to 1.08, below 0.05. Ids off by one in Ciao,
# whose neighbouring ids are alike, 1.32, 0.33: no more than weak.
_ALIGNED_LIFT = 1.4
_MISALIGNED_LIFT = 1.3  # published: aligned data begin here, misaligned ones end here
_MISALIGNED_CORRELATION = 0.25
_MISALIGNED_REACH = 2 / 3  # share with a history, of users with friends over that of all: 1.0 where aligned
_FEWEST_USERS = 100  # with friends and a history: the correlation is then uncertain by 0.1
_FEWEST_EXPECTED = 50  # users with friends who should have a history, before their lack of it counts
_SHUFFLES = 20
_CHANCE = 3  # spreads that chance may explain
_ENTRIES = 4_000_000  # items of both sides of the pairs compared at once: what bounds the memory


@dataclass(frozen=True)
class SocialConfig:
    """What becomes of a social graph that does not pass."""

    accept_alignment: str = ""  # why a graph that fails the check is right all the same; recorded with every landing


@dataclass(frozen=True)
class Alignment:
    """What the check found. A figure that cannot be computed is None.

    lift: mean number of items that two friends share, over the same with one side shuffled.
    spread: standard deviation of the shuffled mean over the shuffles, as a share of it: the noise of the lift.
    correlation: Spearman's, of the number of items and the number of friends, among users who have both.
    strangers: relations left out because they name users that there are not.
    history_share, general_share: share of the users with friends, and of all users, who have any history.
    """

    verdict: Verdict
    lift: float | None
    spread: float | None
    correlation: float | None
    pairs: int
    strangers: int
    history_share: float | None
    general_share: float | None
    sentence: str


@dataclass(frozen=True, eq=False)
class Sample:
    """What is judged: friendships compared, the histories of their ends, and counts over the whole graph."""

    pairs: Indices  # [2, p] distinct, users as numbers from 0
    interactions: Indices  # [2, m] distinct, user and item, of at least the users in `pairs`
    activity: Indices  # [n] number of items, of users with friends and a history
    degree: Indices  # [n] number of friends of the same users
    all_pairs: int
    users: int  # all
    social: int  # with friends
    active: int  # with a history
    both: int
    strangers: int  # relations, besides, of users that there are not


def social_alignment(
    friends: Indices, interactions: Indices, *, seed: int, users: int | None = None, strangers: int = 0
) -> Alignment:
    """Judge friendships [2, n] by interactions [2, m] of users (row 0) with items (row 1); ids are any integers.

    Friendships count once whatever their direction and number, self-edges not at all, repeated interactions once.
    `users` is the number of users there are, where some have neither friends nor a history; `strangers` that of the
    relations that were left out of `friends` because they name others.
    """
    return judged(_sample(friends, interactions, seed=seed, users=users, strangers=strangers), seed=seed)


def judged(sample: Sample, *, seed: int) -> Alignment:
    """The verdict on a sample; the seed deals the friendships out anew."""
    lift, spread = _lift(sample, np.random.default_rng(seed))
    correlation = _correlation(sample)
    return Alignment(
        verdict=_verdict(sample, lift, spread, correlation),
        lift=lift,
        spread=spread,
        correlation=correlation,
        pairs=sample.all_pairs,
        strangers=sample.strangers,
        history_share=sample.both / sample.social if sample.social else None,
        general_share=sample.active / sample.users if sample.users else None,
        sentence=_sentence(sample, lift, spread, correlation),
    )


def require_alignment(alignment: Alignment, *, advice: str) -> None:
    """Warn of a graph that is not surely aligned. Raises SocialMisalignment, with the `advice`, if it is misaligned."""
    if alignment.verdict == "misaligned":
        raise SocialMisalignment(alignment.sentence, figures=asdict(alignment), advice=advice)
    if (alignment.pairs or alignment.strangers) and alignment.verdict != "aligned":
        log.warning("social alignment is %s: %s", alignment.verdict, alignment.sentence)


def _verdict(sample: Sample, lift: float | None, spread: float | None, correlation: float | None) -> Verdict:
    expected = sample.social * sample.active / max(1, sample.users)
    if expected >= _FEWEST_EXPECTED and sample.both < _MISALIGNED_REACH * expected:
        return "misaligned"
    if sample.both < _FEWEST_USERS or lift is None or spread is None:
        # too little is left to judge: then it counts why
        elsewhere = sample.strangers >= _FEWEST_EXPECTED and sample.strangers > sample.all_pairs
        return "misaligned" if elsewhere else "unknown"
    noise = _CHANCE * spread
    if lift >= _ALIGNED_LIFT and lift > 1 + noise:
        return "aligned"
    if lift < _MISALIGNED_LIFT and lift + noise < _ALIGNED_LIFT and (correlation or 0.0) < _MISALIGNED_CORRELATION:
        return "misaligned"
    return "unknown" if noise > _ALIGNED_LIFT - 1 else "weak"


def _lift(sample: Sample, rng: np.random.Generator) -> tuple[float | None, float | None]:
    """Lift and spread. Shuffling keeps everyone's number of friends; a user is never compared with themself."""
    one, other = sample.pairs
    if not len(one) or not sample.interactions.size:
        return None, None
    owner, item = sample.interactions
    histories = sparse.csr_array((np.ones(len(owner), np.int32), (owner, item)))
    histories.resize((max(int(sample.pairs.max()) + 1, histories.shape[0]), histories.shape[1]))
    flipped = rng.random(len(one)) < 0.5  # ids may tell of age: no side may hold the older ones
    left, right = np.where(flipped, other, one), np.where(flipped, one, other)
    shuffled = []
    for _ in range(_SHUFFLES):
        dealt = rng.permutation(right)
        shuffled.append(_mean_shared(histories, left[left != dealt], dealt[left != dealt]))
    chance = float(np.mean(shuffled))
    if chance == 0:
        return None, None
    return _mean_shared(histories, left, right) / chance, float(np.std(shuffled, ddof=1)) / chance


def _mean_shared(histories: sparse.csr_array, one: Indices, other: Indices) -> float:
    """Mean number of items that the pairs share; 0 without pairs."""
    lengths = np.diff(histories.indptr)
    parts = math.ceil((lengths[one].sum() + lengths[other].sum()) / _ENTRIES)
    blocks = zip(np.array_split(one, max(1, parts)), np.array_split(other, max(1, parts)), strict=True)
    shared = sum(int(histories[ours].multiply(histories[theirs]).sum()) for ours, theirs in blocks)
    return shared / max(1, len(one))


def _correlation(sample: Sample) -> float | None:
    if len(sample.activity) < 3 or np.ptp(sample.activity) == 0 or np.ptp(sample.degree) == 0:
        return None
    return float(stats.spearmanr(sample.activity, sample.degree).statistic)


def _sample(friends: Indices, interactions: Indices, *, seed: int, users: int | None, strangers: int) -> Sample:
    rng = np.random.default_rng(seed)
    ids, number = np.unique(np.concatenate([friends.ravel(), interactions[0]]), return_inverse=True)
    low, high = np.sort(number[: friends.size].reshape(2, -1), axis=0)
    pairs = np.stack(np.divmod(np.unique((low * len(ids) + high)[low != high]), max(1, len(ids))))
    items, item = np.unique(interactions[1], return_inverse=True)
    taken = np.stack(np.divmod(np.unique(number[friends.size :] * len(items) + item), max(1, len(items))))
    degree, activity = np.bincount(pairs.ravel(), minlength=len(ids)), np.bincount(taken[0], minlength=len(ids))
    both = np.flatnonzero((degree > 0) & (activity > 0))
    compared = both if len(both) <= MOST_USERS else rng.choice(both, MOST_USERS, replace=False)
    drawn = pairs if pairs.shape[1] <= MOST_PAIRS else pairs[:, rng.choice(pairs.shape[1], MOST_PAIRS, replace=False)]
    asked = np.zeros(len(ids), bool)
    asked[drawn.ravel()] = True
    return Sample(
        pairs=drawn,
        interactions=taken[:, asked[taken[0]]],
        activity=activity[compared],
        degree=degree[compared],
        all_pairs=pairs.shape[1],
        users=len(ids) if users is None else users,
        social=int((degree > 0).sum()),
        active=int((activity > 0).sum()),
        both=len(both),
        strangers=strangers,
    )


def _sentence(sample: Sample, lift: float | None, spread: float | None, correlation: float | None) -> str:
    left_out = f"{sample.strangers:,} relations name users that there are not"
    if not sample.all_pairs:
        return f"there are no friends to compare{': ' + left_out if sample.strangers else ''}"
    shared = "of these shuffled, no two users share an item"
    if lift is not None and spread is not None:
        shared = f"friends share {lift:.2f} times the items of shuffled pairs (± {_CHANCE * lift * spread:.2f})"
    ranks = "activity and degree vary too little to correlate"
    if correlation is not None:
        ranks = f"activity and degree correlate at {correlation:.2f}"
    reach, general = sample.both / max(1, sample.social), sample.active / max(1, sample.users)
    return (
        f"over {sample.all_pairs:,} pairs {shared}, and {ranks} among {sample.both:,} users; "
        f"{reach:.1%} of the users with friends have a history, {general:.1%} of all users"
        f"{'; ' + left_out if sample.strangers else ''}"
    )
