"""An embedded market: who is in it, what is on sale, and what people take day after day.

What there is to learn, and from what:
- taste: a user prefers some categories and some values of every facet; items carry them in title, attributes, picture;
- intent: a search names a category and a facet value, and lasts over several events and sessions;
- transitions: after a category comes one of the two that follow it (a dress, then sandals);
- circles: users of a circle share most of their taste and are mostly friends with each other;
- influence: now and then a user takes what a friend took lately.

Users are simulated in blocks of a fixed size, each from its own counter-based random stream, so a market
does not depend on how it is read, and its memory does not grow with the number of users.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BLOCK_USERS = 4096
PICTURE_LENGTH = 32
_CATALOGUE, _PEOPLE, _TIES, _SHOPPING = range(4)  # random streams

CATEGORIES = (
    *("dress", "skirt", "shirt", "vest", "sweater", "jacket", "coat", "trousers", "belt", "scarf", "hat", "cap"),
    *("gloves", "boots", "sandals", "slippers", "bag", "backpack", "wallet", "pouch", "blanket", "cushion", "rug"),
    "curtain",
)


@dataclass(frozen=True)
class Facet:
    """A kind of attribute: its words, how much it pulls a taste, and where an item shows its value."""

    name: str
    words: tuple[str, ...]
    pull: float
    in_title: float  # probability
    in_attributes: float  # probability
    in_picture: bool


FACETS = (
    Facet("pattern", ("plain", "striped", "checked", "floral", "dotted", "quilted"), 1.0, 0.35, 0.2, True),
    Facet("material", ("linen", "cotton", "wool", "leather", "velvet", "canvas", "felt", "denim"), 1.3, 0.6, 0.6, True),
    Facet(
        "style",
        ("summer", "office", "evening", "sports", "travel", "vintage", "winter", "festival"),
        1.3,
        0.4,
        0.3,
        True,
    ),
    Facet(
        "brand",
        (
            *("Arbor", "Brisa", "Calder", "Dune", "Elowen", "Fjord", "Galena", "Halden"),
            "Iris",
            "Juno",
            "Kestrel",
            "Lumen",
        ),
        1.4,
        0.6,
        0.0,
        False,
    ),
    Facet(
        "colour",
        ("red", "blue", "green", "black", "white", "yellow", "grey", "pink", "brown", "purple"),
        1.4,
        0.5,
        0.5,
        True,
    ),
)
"""In the order of a title: `Striped linen summer dress by Fjord, red`."""

WORDS = tuple(word for facet in FACETS for word in facet.words)
"""Every facet value; its index is the value's code."""
_WIDTHS = np.array([len(facet.words) for facet in FACETS])
_FACET_OF_CODE = np.repeat(np.arange(len(FACETS)), _WIDTHS)
_FIRST_CODE = np.concatenate([[0], np.cumsum(_WIDTHS)[:-1]])
_PULL_OF_CODE = np.array([facet.pull for facet in FACETS], np.float32)[_FACET_OF_CODE]

# How people behave; values chosen so that, at the default size, the best personal ranking hits several times
# as often as popularity does, and no single signal does all of it.
_SESSIONS_PER_DAY = 0.22
_MORE_IN_SESSION, _LONGEST_SESSION = 0.55, 6
_KEEP_INTENT, _FOLLOW_INTENT = 0.55, 0.25
_INFLUENCE, _LATELY = 0.2, 8
_LOOKED_AT = 24
_INTENT_PULL, _INFLUENCE_PULL, _NOVELTY_PULL = 3.0, 4.0, 0.7
_SEARCHES, _SEARCH_NAMES_FACET = 0.65, 0.8


@dataclass(frozen=True)
class Market:
    """The size and seed of a market: everything else follows."""

    users: int
    items: int
    days: int
    start: dt.date
    seed: int

    @property
    def blocks(self) -> int:
        """Number of user blocks."""
        return -(-self.users // BLOCK_USERS)

    def block_size(self, block: int) -> int:
        """Users of a block; all but the last are full."""
        return min(BLOCK_USERS, self.users - block * BLOCK_USERS)

    def generator(self, stream: int, block: int = 0) -> np.random.Generator:
        """The random stream of one purpose and one block."""
        return np.random.Generator(np.random.Philox(key=[self.seed, stream], counter=[0, 0, 0, block]))

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is on sale."""
        return _catalogue(self)


@dataclass(frozen=True)
class Catalogue:
    """Items in order of category. Days count from the market's first; an item can be had from the day after its own."""

    number: Ints  # [items] which item it is outside: ids tell nothing of the category
    category: Ints  # [items]
    codes: Ints  # [items, facets]
    appears: NDArray[np.float64]  # [items] in days, negative before the start
    reach: NDArray[np.float64]  # [items] cumulated popularity
    bounds: NDArray[np.float64]  # [categories + 1] the reach at which each category begins
    followers: Ints  # [categories, 2]
    in_title: NDArray[np.bool_]  # [items, facets]
    in_attributes: NDArray[np.bool_]  # [items, facets]
    pictures: Floats  # [items, PICTURE_LENGTH]


@dataclass(frozen=True)
class People:
    """The users of one block."""

    joins: NDArray[np.float64]  # [n] in days, negative before the start
    circle: Ints  # [n]
    sessions_per_day: Floats  # [n]
    category_taste: Floats  # [n, categories]
    taste: Floats  # [n, codes]


@dataclass(frozen=True)
class Ties:
    """Friendships of one block, each once: within the block first < second, to other blocks in any order."""

    first: Ints  # [pairs] index within the block
    second: Ints  # [pairs] index within the market
    since: NDArray[np.float64]  # [pairs] in days
    inside: NDArray[np.bool_]  # [pairs]


@dataclass(frozen=True)
class Actions:
    """What the users of one block took, in order of day and step."""

    user: Ints  # index within the block
    item: Ints  # index within the catalogue
    time: Ints  # microseconds since the market's start
    query_category: Ints  # -1: no search
    query_code: Ints  # -1: the search names no facet value


def _catalogue(market: Market) -> Catalogue:
    rng = market.generator(_CATALOGUE)
    n, categories = market.items, min(len(CATEGORIES), market.items)
    category = np.sort(np.arange(n) % categories)
    codes = np.stack([rng.integers(len(facet.words), size=n) for facet in FACETS], axis=1) + _FIRST_CODE
    appears = np.where(rng.random(n) < 0.15, rng.uniform(0, 0.95 * market.days, n), -rng.uniform(1, 400, n))
    reach = np.cumsum(rng.lognormal(0.0, 0.7, n))
    starts = np.searchsorted(category, np.arange(categories))
    shown = np.zeros((n, len(WORDS)))
    np.put_along_axis(shown, codes, 1.0, axis=1)
    shown[:, ~np.array([facet.in_picture for facet in FACETS])[_FACET_OF_CODE]] = 0.0
    projection = rng.normal(size=(len(WORDS), PICTURE_LENGTH)) / np.sqrt(PICTURE_LENGTH)
    pictures = shown @ projection + rng.normal(0.0, 0.03, (n, PICTURE_LENGTH))
    return Catalogue(
        number=rng.permutation(n),
        category=category,
        codes=codes,
        appears=appears,
        reach=reach,
        bounds=np.append(np.concatenate([[0.0], reach])[starts], reach[-1]),
        followers=np.stack([rng.permutation(categories) for _ in range(2)], axis=1),
        in_title=rng.random((n, len(FACETS))) < [facet.in_title for facet in FACETS],
        in_attributes=rng.random((n, len(FACETS))) < [facet.in_attributes for facet in FACETS],
        pictures=pictures.astype(np.float32),
    )


def people(market: Market, block: int) -> People:
    """The users of a block: every fifth joins while the market runs, the others were there before."""
    rng = market.generator(_PEOPLE, block)
    n = market.block_size(block)
    late = np.arange(n) % 5 == 4
    circles = max(1, round(n / 30))
    circle = rng.integers(circles, size=n)
    columns = int(market.catalogue.category.max()) + 1 + len(WORDS)
    latent = 0.85 * rng.normal(size=(circles, columns))[circle] + 0.5 * rng.normal(size=(n, columns))
    return People(
        joins=np.where(late, rng.uniform(0, 0.8 * market.days, n), -rng.uniform(1, 400, n)),
        circle=circle,
        sessions_per_day=(_SESSIONS_PER_DAY * rng.gamma(2.0, 0.5, n)).astype(np.float32),
        category_taste=(1.8 * latent[:, : -len(WORDS)]).astype(np.float32),
        taste=(_PULL_OF_CODE * latent[:, -len(WORDS) :]).astype(np.float32),
    )


def ties(market: Market, block: int, users: People) -> Ties:
    """Friendships of a block: mostly within circles, some with anyone, a few with users of other blocks."""
    rng = market.generator(_TIES, block)
    n = len(users.joins)
    chooser = np.repeat(np.arange(n), rng.poisson(3.5, n))
    by_circle = np.argsort(users.circle, kind="stable")
    begins = np.searchsorted(users.circle[by_circle], np.arange(users.circle.max() + 2))
    low, high = begins[users.circle[chooser]], begins[users.circle[chooser] + 1]
    mate = by_circle[low + (rng.random(len(chooser)) * (high - low)).astype(np.int64)]
    chosen = np.where(rng.random(len(chooser)) < 0.85, mate, rng.integers(n, size=len(chooser)))
    pairs = np.unique(np.stack([np.minimum(chooser, chosen), np.maximum(chooser, chosen)], axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    met = np.maximum(users.joins[pairs[:, 0]], users.joins[pairs[:, 1]])
    since = met + rng.random(len(pairs)) * np.maximum(0.5, market.days - met) * (rng.random(len(pairs)) < 0.3)
    # Ties to other blocks join only users who were there before the start: no other block need be made to date them.
    near = np.flatnonzero((rng.random(n) < 0.2) & (users.joins < 0))
    far = rng.integers(market.users, size=len(near))
    kept = (far // BLOCK_USERS != block) & (far % BLOCK_USERS % 5 != 4)
    return Ties(
        first=np.concatenate([pairs[:, 0], near[kept]]),
        second=np.concatenate([pairs[:, 1] + block * BLOCK_USERS, far[kept]]),
        since=np.concatenate([since, np.full(kept.sum(), -0.5)]),
        inside=np.arange(len(pairs) + kept.sum()) < len(pairs),
    )


def actions(market: Market, block: int, *, days: int) -> Actions:
    """What the users of a block take in the market's first `days` days; fewer days give a prefix of more."""
    simulation = _Shopping(market, block)
    taken = [step for day in range(min(days, market.days)) for step in simulation.day(day)]
    empty = Actions(*(np.empty(0, np.int64) for _ in range(5)))
    columns = [[getattr(step, name) for step in (empty, *taken)] for name in vars(empty)]
    return Actions(*(np.concatenate(column) for column in columns))


class _Shopping:
    """The moving state of one block: intents, what everybody has, what everybody took lately."""

    def __init__(self, market: Market, block: int) -> None:
        self.rng = market.generator(_SHOPPING, block)
        self.catalogue, self.users = market.catalogue, people(market, block)
        n = len(self.users.joins)
        pairs = ties(market, block, self.users)
        first, second = pairs.first[pairs.inside], pairs.second[pairs.inside] - block * BLOCK_USERS
        ends = np.concatenate([first, second])
        order = np.argsort(ends, kind="stable")
        self.friends = np.concatenate([second, first])[order]
        self.friends_since = np.tile(pairs.since[pairs.inside], 2)[order]
        self.friends_begin = np.searchsorted(ends[order], np.arange(n + 1))
        self.has = np.zeros((n, market.items), np.bool_)
        self.lately = np.full((n, _LATELY), -1, np.int64)
        self.count = np.zeros(n, np.int64)
        self.category = self._favourite(self.users.category_taste)
        self.code = self._value_sought(np.arange(n))

    def day(self, day: int) -> Iterator[Actions]:
        rng = self.rng
        n = len(self.count)
        here = np.flatnonzero((rng.random(n) < self.users.sessions_per_day) & (self.users.joins < day))
        length = np.minimum(rng.geometric(1 - _MORE_IN_SESSION, len(here)), _LONGEST_SESSION)
        seconds = rng.uniform(0, 22 * 3600, len(here))
        for step in range(_LONGEST_SESSION):
            goes_on = length > step
            here, seconds, length = here[goes_on], seconds[goes_on], length[goes_on]
            seconds = seconds + rng.uniform(15, 600, len(here))
            time = day * 86_400_000_000 + (seconds * 1e6).astype(np.int64)
            yield self._step(here, time, day)

    def _step(self, here: Ints, time: Ints, day: int) -> Actions:
        self._turn(here)
        looked_at = self._shelf(here)
        friend = self._influence(here, day)
        influenced = friend >= 0
        looked_at[influenced, :_LATELY] = self.lately[friend[influenced]]
        item, has_choice = self._choose(here, looked_at, influenced, day)
        here, item, time, influenced = here[has_choice], item[has_choice], time[has_choice], influenced[has_choice]
        self.has[here, item] = True
        self.lately[here, self.count[here] % _LATELY] = item
        self.count[here] += 1
        searches = (self.rng.random(len(here)) < _SEARCHES) & ~influenced
        names_facet = searches & (self.rng.random(len(here)) < _SEARCH_NAMES_FACET)
        query_category = np.where(searches, self.category[here], -1)
        query_code = np.where(names_facet, self.code[here], -1)
        self.category[here] = self.catalogue.category[item]
        return Actions(here, item, time, query_category, query_code)

    def _turn(self, here: Ints) -> None:
        """Keep the intent, move on to a category that follows, or begin anew from taste."""
        turn = self.rng.random(len(here))
        moved = here[turn >= _KEEP_INTENT]
        follows = (turn >= _KEEP_INTENT) & (turn < _KEEP_INTENT + _FOLLOW_INTENT)
        followers = self.catalogue.followers[self.category[here], self.rng.integers(2, size=len(here))]
        anew = here[turn >= _KEEP_INTENT + _FOLLOW_INTENT]
        self.category[here[follows]] = followers[follows]
        self.category[anew] = self._favourite(self.users.category_taste[anew])
        self.code[moved] = self._value_sought(moved)

    def _favourite(self, logits: Floats) -> Ints:
        """One draw a row from the softmax of `logits`."""
        drawn: Ints = (logits + self.rng.gumbel(size=logits.shape)).argmax(axis=1)
        return drawn

    def _value_sought(self, users: Ints) -> Ints:
        facet = self.rng.integers(len(FACETS), size=len(users))
        outside = _FACET_OF_CODE[None, :] != facet[:, None]
        return self._favourite(np.where(outside, np.float32(-np.inf), self.users.taste[users]))

    def _shelf(self, here: Ints) -> Ints:
        """Items of the sought category that come into view, the popular ones more often. [here, _LOOKED_AT]"""
        low, high = self.catalogue.bounds[self.category[here]], self.catalogue.bounds[self.category[here] + 1]
        at = low[:, None] + self.rng.random((len(here), _LOOKED_AT)) * (high - low)[:, None]
        return np.minimum(np.searchsorted(self.catalogue.reach, at, side="right"), len(self.catalogue.reach) - 1)

    def _influence(self, here: Ints, day: int) -> Ints:
        """The friend whose latest items come into view, -1 for none."""
        begin, end = self.friends_begin[here], self.friends_begin[here + 1]
        pick = begin + (self.rng.random(len(here)) * (end - begin)).astype(np.int64)
        pick = np.where(self.rng.random(len(here)) < _INFLUENCE, pick, len(self.friends))
        friends = np.append(self.friends, -1)
        since = np.append(self.friends_since, np.inf)
        return np.where((pick < end) & (since[np.minimum(pick, len(friends) - 1)] < day), friends[pick], -1)

    def _choose(
        self, here: Ints, looked_at: Ints, influenced: NDArray[np.bool_], day: int
    ) -> tuple[Ints, NDArray[np.bool_]]:
        """The item of the highest utility in view, and whether there is one that can be had and is not had."""
        codes = self.catalogue.codes[looked_at]
        utility = self.users.taste[here[:, None, None], codes].sum(axis=2)
        utility += _INTENT_PULL * (codes == self.code[here][:, None, None]).any(axis=2)
        utility[:, :_LATELY] += _INFLUENCE_PULL * influenced[:, None]
        age = day - self.catalogue.appears[looked_at]
        utility += _NOVELTY_PULL * (age < 7) + self.rng.gumbel(size=utility.shape)
        out_of_reach = (looked_at < 0) | (age <= 0) | self.has[here[:, None], looked_at]
        utility = np.where(out_of_reach, -np.inf, utility)
        best = utility.argmax(axis=1)
        rows = np.arange(len(here))
        return looked_at[rows, best], np.isfinite(utility[rows, best])
