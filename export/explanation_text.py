"""An explained score in words, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from export.explain import ExplainedScore
from export.terminal_text import one_line, shortened
from models.dicer.explanation import Attraction, Interest, Maxima, Owner

FRIENDS_SHOWN, CONSUMERS_SHOWN, ITEMS_SHOWN = 5, 5, 3
TOLERANCE = 1e-5
"""A recomputed score that differs by more from the published one was not made from the same inputs."""

_HEADS = {
    "own": "who the user is and what the item is",
    "interest": "what the user and the user's friends had",
    "attraction": "who had the item",
}


def explanation_text(explained: ExplainedScore) -> str:
    """The explanation in lines; signed numbers are attributions in units of the head's logit."""
    parts = [list(_score(explained))]
    if not _is_likeness_alone(explained):
        parts += [list(_interest(explained)), list(_attraction(explained))]
    return "\n\n".join("\n".join(map(one_line, lines)) for lines in [*parts, remarks(explained)] if lines)


def remarks(explained: ExplainedScore) -> list[str]:
    """What is out of the ordinary about the pair or about what was published, a sentence each."""
    return [*_about_the_pair(explained), *_about_the_heads(explained), *_about_the_release(explained)]


def _score(explained: ExplainedScore) -> Iterator[str]:
    explanation, published = explained.explanation, explained.published
    yield f"user {explanation.user_id}, item {_named(explanation.item_id, explained.titles)}"
    sign, likeness = f"score {explanation.score:.4f} =", explanation.likeness
    if likeness is not None:
        yield f"{sign:>14} sigmoid of {likeness:+.4f}  likeness of user and item, with its popularity"
        sign = "+"
    for head in explanation.heads:
        value = f"{head.probability:.4f}" if likeness is None else f"{head.logit:+.4f}"
        yield f"{sign:>14} {_weight(head.weight)} × {value}  {_HEADS[head.name]}"
        sign = "+"
    if published is None:
        yield f"by {explained.artifact} on the features of {explained.date}; not a published score"
    elif published.rank is not None:
        yield (
            f"release {published.release_id} by {explained.artifact}: rank {published.rank} of {published.listed}, "
            f"score {published.score:.4f}, recomputed {published.difference:+.0e}"
        )
    else:
        yield f"release {published.release_id} by {explained.artifact}: not in the user's list"


def _interest(explained: ExplainedScore) -> Iterator[str]:
    interest = explained.explanation.interest
    if interest is None:
        return
    yield _moved(_HEADS["interest"], interest.moved, interest.attributed)
    yield _line(f"own history, {_count(interest.own, 'item')}", interest.own, _items(interest.own, explained.titles))
    telling = [friend for friend in interest.friends if friend.history.attribution]
    mute = [friend for friend in interest.friends if not friend.history.attribution]  # a row of zeros says nothing
    for friend in telling[:FRIENDS_SHOWN]:
        name = f"friend {friend.id}, attention {friend.attention:.0%}, {_count(friend.history, 'item')}"
        yield _line(name, friend.history, _items(friend.history, explained.titles))
    if rest := telling[FRIENDS_SHOWN:] + mute:
        attention, attribution = (sum(f.attention for f in rest), sum(f.history.attribution for f in rest))
        name = (
            f"{len(rest)} {'more ' if telling else ''}friend{'' if len(rest) == 1 else 's'}, attention {attention:.0%}"
        )
        yield f"  {name:<42} {attribution:+.2g}"


def _attraction(explained: ExplainedScore) -> Iterator[str]:
    attraction = explained.explanation.attraction
    if attraction is None:
        return
    audience = attraction.audience
    yield _moved(_HEADS["attraction"], attraction.moved, attraction.attributed)
    shown = (_owner(f"user {owner.id}", owner) for owner in audience.owners[:CONSUMERS_SHOWN])
    yield _line(f"past consumers, {_count(audience, 'user')}", audience, " · ".join(shown))


def _moved(name: str, moved: float, attributed: float) -> str:
    return f"{name}: moves its logit by {moved:+.2g}, to first order {attributed:+.2g}, of which (dimensions owned)"


def _line(name: str, maxima: Maxima, owners: str) -> str:
    dimensions = maxima.nobody + sum(owner.dimensions for owner in maxima.owners)
    nobody = f"nobody ({maxima.nobody} of {dimensions})" if maxima.nobody else ""
    return f"  {name:<42} {maxima.attribution:<+9.2g} {' · '.join(filter(None, (owners, nobody)))}"


def _count(maxima: Maxima, what: str) -> str:
    return f"{maxima.members} {what}{'' if maxima.members == 1 else 's'}"


def _items(maxima: Maxima, titles: Mapping[str, str]) -> str:
    shown = maxima.owners[:ITEMS_SHOWN]
    return " · ".join(_owner(shortened(titles.get(owner.id, f"item {owner.id}")), owner) for owner in shown)


def _owner(name: str, owner: Owner) -> str:
    return f"{name} {owner.attribution:+.2g} ({owner.dimensions})"


def _named(item: str, titles: Mapping[str, str]) -> str:
    return f"{item} “{shortened(titles[item])}”" if item in titles else item


def _weight(weight: float) -> str:
    """1/3 for a third, 0.37 for what is no such fraction."""
    fraction = Fraction(weight).limit_denominator(12)
    return str(fraction) if abs(fraction - weight) < 1e-6 else f"{weight:.3g}"


def _about_the_pair(explained: ExplainedScore) -> Iterator[str]:
    explanation = explained.explanation
    if explanation.had_item:
        yield "The user had this item already, so it is never recommended. Nothing is left out of the lists above."
    if explained.cold_user:
        yield "Training did not know the user, who starts from zeros and is what friends and similar users make of it."
    if explained.cold_item:
        yield "Training did not know the item, which starts from zeros and is what similar items make of it."


def _is_likeness_alone(explained: ExplainedScore) -> bool:
    """Whether the heads of a `dicer_plus` are silent, as they stay where validation says that they add nothing."""
    explanation = explained.explanation
    return explanation.likeness is not None and not any(head.logit for head in explanation.heads)


def _has_owner(part: Interest | Attraction) -> bool:
    if isinstance(part, Attraction):
        return bool(part.audience.owners)
    return any(maxima.owners for maxima in (part.own, *(friend.history for friend in part.friends)))


def _about_the_heads(explained: ExplainedScore) -> Iterator[str]:
    interest, attraction = explained.explanation.interest, explained.explanation.attraction
    if _is_likeness_alone(explained):
        yield "The heads add nothing here: the score is the likeness alone, which is not split over items or friends."
        return
    for name, part in (("interest", interest), ("attraction", attraction)):
        if part is None:
            yield f"This model has no {name} head ({_HEADS[name]})."
        elif part.attributed == 0 and _has_owner(part):
            yield f"Here the {name} head does not answer to small changes, so it gives nobody a weight."
    if interest is not None:
        if not interest.own.members:
            yield "The user has no history: nothing of the user's own speaks for or against the item."
        if not interest.hears_friends:
            yield "This model does not listen to friends."
        elif not interest.friends:
            silent = interest.silent_friends
            yield f"None of the user's {silent} friends has a history." if silent else "The user has no friends."
        elif interest.silent_friends:
            yield f"Not heard, for want of a history: {interest.silent_friends} of the user's friends."
    if attraction is not None and not attraction.audience.members:
        yield "Nobody had the item before this night: no past consumer attracts the user to it."


def _about_the_release(explained: ExplainedScore) -> Iterator[str]:
    published = explained.published
    if published is None:
        return
    if not published.listed:
        yield "The release has no list for the user."
    elif published.rank is None and not explained.explanation.had_item:
        yield f"The item is not among the {published.listed} best that were published for the user."
    if published.difference is not None and abs(published.difference) > TOLERANCE:
        cause = (
            "since it was scored a user was erased, from the feature partitions and the model as well."
            if published.erased
            else f"the feature partitions of {explained.date} were built again since the release was scored."
        )
        yield f"The published score is another one, by {published.difference:+.1e}: {cause}"
