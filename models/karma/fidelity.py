"""Semantic fidelity: what an interest embedding says of the next item, by decoding it and by linear probes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from sklearn.linear_model import LogisticRegression

from models.karma.evaluation import token_accuracy
from models.karma.network import Karma
from models.karma.text import EOS, REC, Catalogue, Preparation, Rows, Tokens, decode

Vectors = NDArray[np.float32]

_JOINERS = "\u200c\u200d"  # within words of Persian and of India's scripts
_LEAST_OF_A_CLASS = 10
"""Rarer classes are no part of a probe: a test would hold one or two of them."""


@torch.no_grad()
def decode_greedily(network: Karma, interests: Vectors, *, limit: int) -> list[Tokens]:
    """The likeliest token after the other from z alone, until `[EOS]` or `limit` tokens."""
    z = torch.from_numpy(interests)
    written = torch.full((len(z), 1), REC, dtype=torch.long)
    for _ in range(limit):
        scores = network.reconstruct(z, written) @ network.decoding_vocabulary().T
        following = scores[:, -1].argmax(dim=-1)
        written = torch.cat([written, following[:, None]], dim=1)
    texts = []
    for row in written[:, 1:].numpy():
        ends = np.flatnonzero(row == EOS)
        texts.append(row[: ends[0]] if len(ends) else row)
    return texts


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation: letters with their marks, digits and underscores of any script."""
    composed = unicodedata.normalize("NFC", text.lower())
    return "".join(character if _is_of_a_word(character) else " " for character in composed).split()


def _is_of_a_word(character: str) -> bool:
    # \w of a regular expression has no vowel signs: it cuts words of Hindi or Thai into letters
    return character.isalnum() or character in f"_{_JOINERS}" or unicodedata.category(character)[0] == "M"


def rouge_l(written: str, wanted: str) -> float:
    """ROUGE-L F1 over words: harmonic mean of LCS / words written and LCS / words wanted (Lin, ACL 2004 workshop).

    Of texts without a word, such as an emoji, 1 if they are equal.
    """
    ours, theirs = words(written), words(wanted)
    if not ours or not theirs:
        return float(written.strip() == wanted.strip())
    common = LCSseq.similarity(ours, theirs)
    return 2.0 * common / (len(ours) + len(theirs))


def contains(text: str, phrase: str) -> bool:
    """Whether the words of `phrase`, at least one, stand in `text`, in order and together."""
    wanted = words(phrase)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words(text))} "


def said(wanted: Sequence[str], vocabulary: Sequence[str]) -> list[str | None]:
    """The first word of `vocabulary` that each text says, None where it says none."""
    return [next((word for word in vocabulary if contains(text, word)), None) for text in wanted]


def decoded_fidelity(
    network: Karma,
    preparation: Preparation,
    catalogue: Catalogue,
    interests: Vectors,
    items: Rows,
    labels: Mapping[str, Sequence[str | None]],
) -> dict[str, float]:
    """Token accuracy, ROUGE-L and, by name, how often the text decoded from z says the label of the next item.

    `labels` gives a phrase for each of `items`, or None; those of None do not count.
    """
    tokenizer = preparation.tokenizer
    written = [
        decode(tokenizer, text) for text in decode_greedily(network, interests, limit=preparation.config.item_tokens)
    ]
    wanted = [decode(tokenizer, catalogue.tokens[int(row)]) for row in items]
    figures = {
        "token_accuracy": token_accuracy(network, catalogue, interests, items),
        "rouge_l": float(np.mean([rouge_l(ours, theirs) for ours, theirs in zip(written, wanted, strict=True)])),
    }
    for name, phrases in labels.items():
        hits = [contains(text, phrase) for text, phrase in zip(written, phrases, strict=True) if phrase is not None]
        if hits:
            figures[f"says_{name}"] = float(np.mean(hits))
    return figures


def probe(
    learned: Vectors, classes: Sequence[str | None], judged: Vectors, truth: Sequence[str | None]
) -> dict[str, float] | None:
    """Accuracy of logistic regression from z [n, d] to a class, on other z [m, d]; None with fewer than two classes.

    Beside it the accuracy with the judged z shuffled between rows, and that of the commonest class.
    """
    names, counts = np.unique([name for name in classes if name is not None], return_counts=True)
    usual = set(names[counts >= _LEAST_OF_A_CLASS].tolist())
    rows = [row for row, name in enumerate(classes) if name in usual]
    asked = [row for row, name in enumerate(truth) if name in usual]
    if len(usual) < 2 or not asked:
        return None
    model = LogisticRegression(C=10.0, max_iter=500)
    model.fit(learned[rows], [classes[row] for row in rows])
    right = np.array([truth[row] for row in asked])
    shuffled = np.random.default_rng(0).permutation(len(asked))
    return {
        "accuracy": float((model.predict(judged[asked]) == right).mean()),
        "shuffled": float((model.predict(judged[asked])[shuffled] == right).mean()),
        "commonest": float((right == names[counts.argmax()]).mean()),
    }
