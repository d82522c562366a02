"""The page of KARMA's results, made from the files of finished runs alone: what has no file is said to be not run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from features.files import write_text
from models.karma.comparison import Run, Runs, common, hit_gain, read_runs, recall_gain, stage_gain
from models.karma.config import KarmaConfig
from models.karma.figures import SHOWN, mean_over_heads, write_figures
from models.karma.judging import CHANGES, VERSION
from models.karma.verdicts import verdicts
from models.metrics import Interval

TITLES = {
    "synthetic": "Synthetic market",
    "lastfm": "HetRec 2011 Last.fm, tag assignments",
}
COMPRESSED = {"action_only_compressed": "action only, compressed", "karma_compressed": "KARMA, compressed"}
BASELINES = {"popularity": "popularity", "item_to_item": "item-to-item cosine", "sasrec": "SASRec"}
ARMS = {arm: name for arm, (name, _) in SHOWN.items() if arm != "pretrained"}
MODELS = ARMS | COMPRESSED
METRICS = ("HR@10", "HR@50", "HR@200", "NDCG@10", "MRR")
RECALLED = (50, 200)
PAPER_GAIN = 22.5
LOST_AT_MOST = KarmaConfig().history_tolerance
_HEAD = """# KARMA: the claims, measured

Written by `attractor benchmark karma` from the files beside it ([karma/](karma)), one of figures and one of arrays a
run; no number is typed by hand. Test window, mean ± standard deviation over seeds, in per cent unless said otherwise.

The four arms of a seed start from one network, pre-trained to write the texts of items and queries and to find items
by words of their text; they have the same budget of steps and stop at their own best step on the validation window.
They differ in λ alone: `action only` has none, `+ generation` has λ_gen, `+ reconstruction` λ_rec, KARMA both. Two
more, *compressed*, read one soft token where the others read the words of an item or a query; they share a start too,
which also learned to write a text from its soft token.

Everything is ranked over the full catalogue without the items that the user had before. A *position* is a new item
that a user took in the test window, given all that the user did before it, in the window too; the *first* position of
a user is the nearest to what a night is asked. *Cold* items had fewer than three events when training ended: they
have no id embedding. Intervals are 95 %, from a paired bootstrap that resamples users and averages the seeds: how far
seeds differ is in the ± alone.

SASRec (KARMA's width, two or four layers, cross-entropy over all items, a constant learning rate where the arms' falls)
and item-to-item (cosine of the items' users over the latest events) had a few trials on the first seed; validation
chose.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the page and the figures of the runs in `results`."""
    parts = [_HEAD]
    for data in TITLES:
        runs = read_runs(results / data)
        figures = write_figures(runs, data, results) if runs else []
        parts.append("\n".join(section(data, runs, [f"{results.name}/{name}" for name in figures])))
    write_text(page, "\n".join(parts))


def section(data: str, runs: Runs, figures: Sequence[str]) -> Iterator[str]:
    """One data set, in Markdown."""
    yield f"## {TITLES[data]}\n"
    if not runs:
        yield f"Not run; `attractor benchmark karma --data {data}` does it.\n"
        return
    yield from _facts(runs)
    drawn = {Path(name).stem.split("-")[0]: f"![{Path(name).stem}]({name})\n" for name in figures}
    yield from verdicts(runs)
    yield from _action(runs)
    yield drawn.get("gains", "")
    yield from _collapse(runs)
    yield drawn.get("sinks", "")
    yield drawn.get("attention", "")
    yield from _fidelity(runs)
    yield from _downstream(runs)
    yield from _histories(runs)
    yield from _costs(runs)


def _facts(runs: Runs) -> Iterator[str]:
    figures = next(iter(runs.values()))[0].figures
    told, version = figures["facts"], int(figures["version"])
    if version < VERSION:
        since = "; ".join(CHANGES[later] for later in range(version + 1, VERSION + 1))
        yield (
            f"**These runs are of version {version} of this benchmark, which is at {VERSION}.** Since then {since}. "
            f"`attractor benchmark karma --data {figures['data']}` runs them anew.\n"
        )
    yield (
        f"{told['users']:,} users and {told['events']:,} events in their histories before {told['train_end']} to learn "
        f"from; {told['items']:,} items. From {told['valid_end']} on, {told['judged_users']:,} users have "
        f"{told['positions']:,} positions, {told['with_query']:,} of them with a query, {told['cold']:,} cold, "
        f"{told['new']:,} of items without any event.\n"
    )


def _action(runs: Runs) -> Iterator[str]:
    yield "### Action\n"
    for part, title in (("first", "First position of each user"), ("all", "All positions")):
        yield f"{title}:\n"
        yield from _rank_table(runs, "action", part, BASELINES | MODELS)
    yield "All positions, the current query known (baselines hear no query):\n"
    yield from _rank_table(runs, "action_with_query", "all", MODELS)
    yield "All positions, every item shown without its id embedding, as if the whole catalogue were new:\n"
    yield from _rank_table(runs, "action_without_ids", "all", MODELS)
    names = ("warm", "cold", "new")
    yield "Warm, cold and new items (without any event), all positions:\n"
    yield f"| model | {' | '.join(f'HR@{k} {name}' for name in names for k in (50, 200))} |"
    yield "|---" * (1 + 2 * len(names)) + "|"
    for arm, label in (BASELINES | MODELS).items():
        present = runs[arm][0].figures["action"] if arm in runs else {}
        cells = [
            _percent(runs, arm, _at("action", name, f"HR@{k}")) if name in present else ""
            for name in names
            for k in (50, 200)
        ]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""
    yield from _gains(runs)


def _rank_table(runs: Runs, group: str, part: str, rows: Mapping[str, str]) -> Iterator[str]:
    """The metrics of some models; the highest mean of each is in bold, whoever has it."""
    yield f"| model | {' | '.join(METRICS)} | seeds |"
    yield "|---" * (len(METRICS) + 2) + "|"
    values = {metric: _at(group, part, metric) for metric in METRICS}
    best = {
        metric: max(((statistics.fmean(map(value, runs[arm])), arm) for arm in rows if arm in runs), default=(0.0, ""))
        for metric, value in values.items()
    }
    for arm, label in rows.items():
        cells = [
            f"**{cell}**" if best[metric][1] == arm else cell
            for metric, cell in ((metric, _percent(runs, arm, value)) for metric, value in values.items())
        ]
        yield f"| {label} | {' | '.join(cells)} | {len(runs.get(arm, [])) or 'not run'} |"
    yield ""


def _gains(runs: Runs) -> Iterator[str]:
    """What each regularised arm has over action only."""
    yield "Points over action only:\n"
    yield from _gain_table(runs, {arm: ARMS[arm] for arm in list(ARMS)[1:]}, over="action_only")
    if common(runs, "karma_compressed", "action_only_compressed"):
        yield "\nThe same, both with compressed histories and from one pre-training:\n"
        yield from _gain_table(runs, {"karma_compressed": "KARMA"}, over="action_only_compressed")
    found = hit_gain(runs, "karma", "action_only", 200)
    if found is not None:
        yield f"\nThe paper reports up to +{PAPER_GAIN} points of HR@200 on its own data; here {100 * found.mean:+.1f}."
    yield ""


def _gain_table(runs: Runs, rows: Mapping[str, str], *, over: str) -> Iterator[str]:
    asked = [(50, "all"), (200, "all"), (50, "first"), (50, "cold"), (200, "cold")]
    heads = [*(f"HR@{k} {part}" for k, part in asked), "HR@50 all, query known", "HR@50 all, ids hidden"]
    yield f"| arm | {' | '.join(heads)} |"
    yield "|---" * (3 + len(asked)) + "|"
    for arm, label in rows.items():
        cells = [interval(hit_gain(runs, arm, over, k, part=part)) for k, part in asked]
        cells += [interval(hit_gain(runs, arm, over, 50, ranks=f"rank_{how}")) for how in ("with_query", "without_ids")]
        yield f"| {label} | {' | '.join(cells)} |"


def _collapse(runs: Runs) -> Iterator[str]:
    yield "### Semantic collapse\n"
    yield (
        "A key's share is the mean attention that it receives from the queries at it and after it; a *sink* is a key "
        "above ε = 0.3 (Gu et al., ICLR 2025), among keys with at least 16 such queries. Means over layers, heads and "
        "those of 256 histories that have 16 tokens. Entropy is of a query's attention, as a share of log(keys). "
        "Attention on items and on queries, their words or soft tokens, is that of the `[INT]` tokens; without any "
        "choice it would be the share in brackets. The effective rank is exp(entropy of the normalised singular "
        "values), of at most the width of the embeddings.\n"
    )
    head = ("sink, any key", "sink, first key", "strongest key", "entropy", "on items", "on queries")
    yield f"| model | {' | '.join(head)} | rank of z | rank of items |"
    yield "|---" * (len(head) + 3) + "|"
    for arm, label in ({"pretrained": SHOWN["pretrained"][0]} | MODELS).items():
        group = [run for run in runs.get(arm, []) if run.figures.get("collapse")]
        if not group:
            yield f"| {label} | {'not measured' if arm in runs else 'not run'} |" + " |" * (len(head) + 1)
            continue
        heads = [
            spread([100 * mean_over_heads(run, name) for run in group], 1)
            for name in ("sink_share", "first_key", "strongest", "entropy")
        ]
        on = [spread([100 * _on(run, kind) for run in group], 1) for kind in ("item", "query")]
        present = group[0].figures["collapse"]["tokens"]
        on = [f"{cell} ({100 * present[kind]:.0f})" for cell, kind in zip(on, ("item", "query"), strict=True)]
        ranks = ["", ""]
        if arm != "pretrained":
            names = ("rank_of_interests", "rank_of_items")
            ranks = [spread([run.figures["collapse"][name] for run in group], 1) for name in names]
        yield f"| {label} | {' | '.join([*heads, *on, *ranks])} |"
    yield ""


def _on(run: Run, kind: str) -> float:
    by_head = run.figures["collapse"]["on"][kind]
    return statistics.fmean(statistics.fmean(layer) for layer in by_head)


def _fidelity(runs: Runs) -> Iterator[str]:
    yield "### Semantic fidelity\n"
    yield (
        "The text of the next item, decoded from z alone: tokens right when the true ones before are given, ROUGE-L "
        "of the text written greedily, and how often it says the item's own attributes. In brackets the same with "
        "another user's z: what the language model says by itself. Arms without λ_rec never trained the projection P "
        "from z into the language model; what their z holds, the probes below ask without it.\n"
    )
    groups = {arm: runs[arm] for arm in MODELS if arm in runs}
    if not groups:
        yield "Not run.\n"
        return
    first = next(iter(groups.values()))[0].figures["fidelity"]
    names = sorted(first["decoded"]["own"])
    names.sort(key=lambda name: name.startswith("says_"))
    yield f"| model | {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "|---" * (1 + len(names)) + "|"
    for arm, group in groups.items():
        cells = []
        for name in names:
            own, other = (
                [100 * run.figures["fidelity"]["decoded"][whose][name] for run in group]
                for whose in ("own", "shuffled")
            )
            cells.append(f"{spread(own, 1)} ({statistics.fmean(other):.1f})")
        yield f"| {MODELS[arm]} | {' | '.join(cells)} |"
    yield from _probes(groups)


def _probes(groups: Runs) -> Iterator[str]:
    """What linear probes read from z; `groups` has an arm at least."""
    yield (
        "\nLinear probes, logistic regression from z to the next item's attribute: accuracy; in brackets what says "
        "nothing of the user, the better of another user's z and always the commonest class.\n"
    )
    probes = list(next(iter(groups.values()))[0].figures["fidelity"]["probes"])
    yield f"| model | {' | '.join(probes)} |"
    yield "|---" * (1 + len(probes)) + "|"
    for arm, group in groups.items():
        told = [[run.figures["fidelity"]["probes"][name] for run in group] for name in probes]
        cells = [
            f"{spread([100 * each['accuracy'] for each in one], 1)} "
            f"({100 * statistics.fmean(max(each['shuffled'], each['commonest']) for each in one):.1f})"
            for one in told
        ]
        yield f"| {MODELS[arm]} | {' | '.join(cells)} |"
    yield ""


def _downstream(runs: Runs) -> Iterator[str]:
    yield "### Downstream stages\n"
    yield (
        "A ranker of gradient-boosted trees learns from the validation window and is judged on the test window, on "
        "impressions of one item taken and ten sampled (the data has no exposures): counts, co-occurrence, category "
        "and word overlaps; then with z·e, then with z too. Points of AUC and grouped AUC that the embedding adds. "
        "Pre-ranking: points of HR@50 among 500 candidates that z·e adds to the same ranker.\n"
    )
    head = (
        "AUC without",
        "+ z·e",
        "+ z·e and z",
        "grouped AUC + z·e",
        "pre-ranking HR@50",
    )
    yield f"| model | {' | '.join(head)} |"
    yield "|---" * (1 + len(head)) + "|"
    for arm, label in MODELS.items():
        group = runs.get(arm, [])
        if not group:
            yield f"| {label} | not run |" + " |" * (len(head) - 1)
            continue
        cells = [
            spread([100 * run.figures["downstream"]["auc"]["base"] for run in group], 2),
            *(interval(stage_gain(group, "auc", ranker)) for ranker in ("with_score", "with_z")),
            interval(stage_gain(group, "grouped_auc", "with_score")),
            interval(stage_gain(group, "pre_ranking", "with_score")),
        ]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""
    yield from _recall(runs)


def _recall(runs: Runs) -> Iterator[str]:
    if not runs.get("item_to_item"):
        return
    counting = runs["item_to_item"][0]  # it only counts: every seed has the same ranks
    found = " and ".join(f"{100 * counting.hits(k).mean():.1f} % at {k}" for k in RECALLED)
    yield (
        f"Recall: item-to-item alone has HR {found}. Points that a channel of the embedding's nearest items has over "
        "it, and points that both together have, with half of the length each.\n"
    )
    yield f"| model | {' | '.join(f'embedding alone, HR@{k} | both, HR@{k}' for k in RECALLED)} |"
    yield "|---" * (1 + 2 * len(RECALLED)) + "|"
    for arm, label in MODELS.items():
        group = runs.get(arm, [])
        gains = [recall_gain(group, counting, k, beside=beside) for k in RECALLED for beside in (False, True)]
        cells = list(map(interval, gains)) if group else ["not run", "", "", ""]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def _histories(runs: Runs) -> Iterator[str]:
    yield "### Words or compressed histories\n"
    yield (
        "Histories of words, and of one soft token an item or query, which a language model of its own "
        'made (docs/karma.md). Compressed histories are the faster ones at night: with `history = "auto"` it has them '
        f"wherever their HR@50 of all positions in validation is at least {1 - LOST_AT_MOST:.0%} of the words'.\n"
    )
    yield "| history | validation, HR@50 | test, HR@50 | seeds |"
    yield "|---|---|---|---|"
    for arm, label in {"karma": "KARMA, words", "action_only": "action only, words", **COMPRESSED}.items():
        cells = [_percent(runs, arm, _at(part, "all", "HR@50")) for part in ("validation", "action")]
        yield f"| {label} | {' | '.join(cells)} | {len(runs.get(arm, [])) or 'not run'} |"
    pairs = common(runs, "karma_compressed", "karma")
    if pairs:
        ours, theirs = (
            statistics.fmean(map(_at("validation", "all", "HR@50"), side)) for side in zip(*pairs, strict=True)
        )
        kept = "compressed" if ours >= (1 - LOST_AT_MOST) * theirs else "words"
        yield f"\nOver the seeds that both have, compressed histories have {ours / theirs:.1%} of it: **{kept}**."
    yield ""


def _costs(runs: Runs) -> Iterator[str]:
    yield "### Runs\n"
    yield "Whichever arm of a seed runs first pays for the pre-training that all share, in its minutes.\n"
    yield "| model | best step | minutes | memory, MiB | settings |"
    yield "|---|---|---|---|---|"
    for arm, label in (BASELINES | {name: told for name, (told, _) in SHOWN.items()} | COMPRESSED).items():
        if arm in runs:
            group = runs[arm]
            steps = ", ".join(str(run.figures["best_step"]) for run in group)
            minutes = statistics.fmean(run.figures["seconds"] for run in group) / 60
            memory = max(run.figures["peak_memory_mib"] or 0 for run in group)
            yield f"| {label} | {steps} | {minutes:.1f} | {memory:,} | {_settings(group[0])} |"
    yield ""


def _settings(run: Run) -> str:
    """The settings of the kept trial in which trials differ, or those of the objectives."""
    trials = [trial["configuration"] for trial in run.figures["trials"]]
    kept = trials[run.figures["trial"]]
    names = [name for name in kept if len({str(trial[name]) for trial in trials}) > 1]
    if not names:
        names = [name for name in kept if name.startswith("lambda_") and kept[name]]
        names += [name for name in ("regulariser_decay", "reconstruction_decoder", "steps") if name in kept]
        names += [name for name in ("backbone", "backbone_revision", "adaptation") if kept.get("backbone")]
    return ", ".join(f"{name} {kept[name]}" for name in names)


def _at(*path: str) -> Callable[[Run], float]:
    def find(run: Run) -> float:
        value = run.figures
        for name in path:
            value = value[name]
        return float(value)  # type: ignore[arg-type]

    return find


def _percent(runs: Runs, arm: str, value: Callable[[Run], float]) -> str:
    group = runs.get(arm, [])
    return spread([100 * value(run) for run in group], 2) if group else ""


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def interval(found: Interval | None) -> str:
    """A gain in points with its interval, in bold where the interval excludes zero."""
    if found is None:
        return ""
    told = f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    return f"**{told}**" if found.excludes_zero else told
