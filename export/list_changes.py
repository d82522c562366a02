"""How the ranked lists of two nights differ: user by user, and by how often each item is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from features.release_table import ReleasedTable

_EXPOSURE = pa.schema([("item_id", pa.string()), ("places", pa.int64())])


@dataclass(frozen=True, eq=False)
class ListChanges:
    """Of the users that both tables have: where their rows are and how much their lists agree."""

    rows: NDArray[np.int64]  # [users] in the table of now, ascending
    earlier: NDArray[np.int64]  # [users] in the one before
    agreement: NDArray[np.float64]  # [users], average overlap
    exposure: pa.Table  # item_id, places: of every list of now
    exposure_before: pa.Table


def list_changes(before: ReleasedTable, now: ReleasedTable) -> ListChanges:
    """Compare two tables of lists in one pass; memory holds a batch of each, 24 bytes a user, the items' counts.

    The agreement of two lists is their average overlap (Fagin, Kumar and Sivakumar, Comparing top k lists, 2003,
    sec. 3.2; Webber, Moffat and Zobel, A similarity measure for indefinite rankings, 2010, eq. 4):
    AO = 1/K sum_{d=1..K} |A_d ∩ B_d| / d, with K the longer length and A_d the first d items of A: 1 for equal lists,
    0 for lists without a common item, and the top counts most.
    """
    rows, earlier, agreement = [], [], []
    exposure, first = _EXPOSURE.empty_table(), 0
    for batch in tqdm(now, total=len(now.batches), desc="compare lists", disable=None, leave=False):
        exposure = _counted(exposure, batch.column("item_ids"))
        found = before.locate([batch.column(name) for name in now.table.key])
        (shared,) = (found >= 0).nonzero()
        rows.append(first + shared)
        earlier.append(found[shared])
        ours = batch.column("item_ids").take(pa.array(shared))
        agreement.append(average_overlap(ours, before.column("item_ids", found[shared])))
        first += len(batch)
    exposure_before = _EXPOSURE.empty_table()
    for batch in before:
        exposure_before = _counted(exposure_before, batch.column("item_ids"))
    return ListChanges(
        np.concatenate(rows), np.concatenate(earlier), np.concatenate(agreement), exposure, exposure_before
    )


def average_overlap(ours: pa.Array, theirs: pa.Array) -> NDArray[np.float64]:
    """Average overlap of each pair of lists [rows]; 1 where both are empty. An item twice in a list counts once.

    A common item is in both heads from depth m on, the lower of its two ranks, so it adds (H_K - H_{m-1}) / K with
    the harmonic numbers H: no loop over depths.
    """
    lengths = [pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64) for lists in (ours, theirs)]
    longest = np.maximum(*lengths)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest.max(initial=0) + 1))])
    items = pa.concat_arrays([ours.flatten(), theirs.flatten()]).dictionary_encode()
    codes, width = items.indices.to_numpy(), max(1, len(items.dictionary))
    split = int(lengths[0].sum())
    our_places, our_ranks = _places(codes[:split], lengths[0], width)
    their_places, their_ranks = _places(codes[split:], lengths[1], width)
    common, left, right = np.intersect1d(our_places, their_places, assume_unique=True, return_indices=True)
    owners, lower = common // width, np.maximum(our_ranks[left], their_ranks[right])
    gained = harmonic[longest[owners]] - harmonic[lower - 1]
    sums = np.bincount(owners, weights=gained, minlength=len(ours))
    return np.where(longest > 0, sums / np.maximum(longest, 1), 1.0)


def _places(
    codes: NDArray[np.int32], lengths: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each list's distinct items as list * width + code, ascending, and the best rank of each from 1."""
    owners = np.repeat(np.arange(len(lengths)), lengths)
    ranks = np.arange(1, len(codes) + 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places, first = np.unique(owners * width + codes, return_index=True)
    return places, ranks[first]


def _counted(exposure: pa.Table, lists: pa.Array) -> pa.Table:
    counts = lists.flatten().value_counts()
    batch = pa.table([counts.field("values"), counts.field("counts")], schema=_EXPOSURE)
    together = pa.concat_tables([exposure, batch]).group_by("item_id").aggregate([("places", "sum")])
    return together.rename_columns(["item_id", "places"])
