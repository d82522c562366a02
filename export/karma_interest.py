"""The interest of users of a release with what they ask for now, on ONNX Runtime alone.

For ranking systems:

    asked = open_interests(configuration)                        # once for each release
    vectors = asked.interests(["u1", "u2"], ["red shirt", ""])   # float32 [2, d], in the space of asked.release

Neither torch nor feast is imported.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.karma_encoding import Encoder, Vectors, open_encoder
from export.released import released
from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import read_partition, read_rows_of
from features.releases import Release
from models.karma.text import Catalogue, History, Tokens, encode, read_catalogue, read_histories

VIEW, COLUMN = "karma_user_interest", "interest_embedding"


@dataclass(frozen=True, eq=False)
class Interests:
    """A release, the encoder that made it, and the catalogue that its histories speak of; safe to share by threads."""

    configuration: Configuration
    release: Release
    date: dt.date  # whose histories are read
    encoder: Encoder
    catalogue: Catalogue
    row_of: Mapping[str, int]  # item id -> catalogue row

    def interests(self, users: Sequence[str], queries: Sequence[str]) -> Vectors:
        """Interests [pairs, d] of pairs of a user and the text of a current query, in their order.

        Without a query (empty, or nothing but blanks) it is the published vector itself. Raises MissingInput for a
        user whom the release does not know, ValueError unless there is one query for each user.
        """
        if len(users) != len(queries):
            raise ValueError(f"expected one query for each user, got {len(queries)} for {len(users)} users")
        if not users:
            return np.empty((0, self.encoder.preparation.config.embedding), np.float32)
        published, found = self.release.embeddings(VIEW, COLUMN, list(users))
        if not found.all():
            self._refuse(users[int(np.argmin(found))], f"release {self.release.release_id}")
        vectors = np.array(published)
        preparation = self.encoder.preparation
        tokens = encode(preparation.tokenizer, list(queries), limit=preparation.config.query_tokens)
        asking = np.flatnonzero(tokens.lengths).tolist()
        if asking:
            vectors[asking] = self._encoded([users[row] for row in asking], [tokens[row] for row in asking])
        return vectors

    def _encoded(self, users: Sequence[str], queries: Sequence[Tokens]) -> Vectors:
        rows = read_rows_of(self.configuration, "user_history", self.date, sorted(set(users)))
        known = read_histories(rows, self.encoder.preparation, self.row_of)
        for user in users:
            if user not in known:
                self._refuse(user, f"user_history as of {self.date}")
        histories = [known[user] for user in users]
        return self.encoder.users(histories, self.catalogue.history_tokens, self._soft(histories), queries)

    def _soft(self, histories: Sequence[History]) -> Vectors:
        """Soft tokens [items, K * H], zeros but for items of these histories; no numbers where histories are words."""
        soft = np.zeros((len(self.catalogue), self.encoder.soft_numbers), np.float32)
        named = np.unique(np.concatenate([history.items for history in histories]))
        if self.encoder.soft_numbers and len(named):
            soft[named] = self.encoder.items(self.catalogue, named).soft
        return soft

    def _refuse(self, user: str, where: str) -> None:
        raise MissingInput(f"no user {user!r} in {where}: an interest is read from a history, which it does not have")


def open_interests(configuration: Configuration, release_id: str | None = None) -> Interests:
    """What interests with a query take of the live release, or of the one named.

    Raises MissingInput if the release, its artifact or the feature partitions of its night are gone.
    """
    release, artifact, date = released(configuration, release_id, model="karma", view=VIEW)
    encoder = open_encoder(artifact.directory)
    catalogue = read_catalogue(read_partition(configuration, "item_catalog", date), encoder.preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    return Interests(configuration, release, date, encoder, catalogue, row_of)


def nearest_items(release: Release, interest: Vectors, *, top: int) -> list[tuple[str, float]]:
    """The release's items nearest to an interest [d], and their cosine to it, nearest first."""
    items = release.tables["karma_item_embedding"]
    everything = np.arange(items.row_count)
    cosines = items.vectors("item_embedding", everything) @ interest
    best = np.argsort(-cosines, kind="stable")[:top]
    return list(zip(items.column("item_id", best).to_pylist(), cosines[best].tolist(), strict=True))
