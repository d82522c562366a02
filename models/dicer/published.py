"""Numbers that others published for the benchmark's protocols, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of someone's table, under the benchmark's names of metrics; `arm` is our run of the same model, if any."""

    model: str
    metrics: Mapping[str, float]
    source: str
    arm: str | None = None


_FU = "Fu et al., WWW 2021, Ciao"
_CHEN = "Chen et al., SIGIR 2019, Ciao"
_RECBOLE = "RecBole-GNN, results/social/lastfm.md"


def _ciao(recall: float, ndcg: float) -> dict[str, float]:
    return {"CappedRecall@10": recall, "NDCG@10": ndcg}


def _eatnn(recall: float, recall_50: float, ndcg: float) -> dict[str, float]:
    # their program divides by min(positives, K), code/EATNN.py at commit 0fcb5f8, whatever their text says
    return {"CappedRecall@10": recall, "CappedRecall@50": recall_50, "NDCG@10": ndcg}


def _lastfm(*values: float) -> dict[str, float]:
    return dict(zip(("Recall@10", "MRR@10", "NDCG@10", "HR@10", "Precision@10"), values, strict=True))


PUBLISHED: Mapping[str, Sequence[Published]] = {
    "paper": (
        Published(
            "DICER",
            {
                "CappedRecall@5": 0.2554,
                "CappedRecall@10": 0.3151,
                "CappedRecall@15": 0.3579,
                "NDCG@5": 0.2243,
                "NDCG@10": 0.2437,
                "NDCG@15": 0.2565,
            },
            _FU,
            "dicer",
        ),
        Published("DiffNet++", _ciao(0.2844, 0.2226), _FU),
        Published("SAMN", _ciao(0.2836, 0.2205), _FU),
        Published("NGCF", _ciao(0.2821, 0.2212), _FU),
        Published("TrustSVD", _ciao(0.2698, 0.2056), _FU),
        Published("BPR", _ciao(0.2143, 0.1720), _FU, "bpr"),
    ),
    "full": (
        Published("EATNN", _eatnn(0.0778, 0.1764, 0.0547), _CHEN),
        Published("SAMN", _eatnn(0.0719, 0.1671, 0.0495), _CHEN),
        Published("BPR", _eatnn(0.0591, 0.1600, 0.0409), _CHEN, "bpr"),
    ),
    "lastfm": (
        Published("SEPT", _lastfm(0.2127, 0.3703, 0.2057, 0.6465, 0.1044), _RECBOLE),
        Published("MHCN", _lastfm(0.2123, 0.3782, 0.2068, 0.6523, 0.1042), _RECBOLE),
        Published("LightGCN", _lastfm(0.2064, 0.3559, 0.1972, 0.6322, 0.1009), _RECBOLE, "lightgcn"),
        Published("NGCF", _lastfm(0.1960, 0.3479, 0.1898, 0.6141, 0.0961), _RECBOLE),
        Published("BPR", _lastfm(0.1761, 0.3026, 0.1674, 0.5573, 0.0858), _RECBOLE, "bpr"),
        Published("DiffNet", _lastfm(0.1757, 0.3117, 0.1694, 0.5621, 0.0857), _RECBOLE),
    ),
}


@dataclass(frozen=True)
class Ablation:
    """A row of the paper's ablations on Ciao; `recall` is its Recall@10, or `loss` the share of it that is lost."""

    label: str
    arm: str
    recall: float | None = None
    loss: float | None = None


ABLATIONS: Sequence[Ablation] = (
    Ablation("DICER (L = 3)", "layers_3", recall=0.3151),
    Ablation("without item similarity", "no_item_similarity", recall=0.2842),
    Ablation("without user similarity", "no_user_similarity", recall=0.2928),
    Ablation("without social", "no_social", recall=0.2945),
    Ablation("without all three", "no_relations", recall=0.2733),
    Ablation("attention instead of modulation", "attention_instead_of_modulation", recall=0.2688),
    Ablation("no GNN", "no_gnn", recall=0.2190),
    Ablation("GAT instead of its GNN", "gat", recall=0.3077),
    Ablation("L = 1", "layers_1", recall=0.3074),
    Ablation("L = 2", "layers_2", recall=0.3088),
    Ablation("without user interest", "no_user_interest", loss=0.045),
    Ablation("without item attraction", "no_item_attraction", loss=0.058),
)
