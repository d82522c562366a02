"""The page of results, made from the files of finished runs alone: what has no file is said to be not run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.files import is_temporary, read_json, write_text
from models.dicer.config import NAMED
from models.dicer.protocols import PROTOCOLS, Protocol
from models.dicer.published import ABLATIONS, PUBLISHED

Result = Mapping[str, Any]

MAIN = {
    "popularity": "popularity",
    "bpr": "BPR-MF",
    "lightgcn": "LightGCN",
    "dicer": "DICER",
    "dicer_plus": "dicer_plus",
}
"""The arms of every protocol, and their names on the page."""

_WHOLE = ABLATIONS[0].arm
"""What the ablations are held against: of their size, unlike the arm `dicer`."""

_SIZE = ("dimension", "hidden", "dropout", "negatives", "learning_rate", "steps")
"""What an ablation shares with `_WHOLE`; a run with another has no place beside it."""

_LOOKING = ("validate_every", "validation_users", "device", "head_weights")  # JSON makes a list of the last

_RULES = {
    "paper": """
Ciao, every rating a positive; all distinct pairs split 80/10/10 at random by seed. Each user's positives are ranked
among 1,000 items, drawn once by seed, that the user has in no part.
""",
    "full": """
Ciao as EATNN's authors split it: the same parts for every seed, which only starts a model. All items are ranked but
those of the user's train part; as in their program, a test leaves validation items among the candidates. Their
program (code/EATNN.py, commit 0fcb5f8) divides Recall by min(positives, K), so their numbers stand under
CappedRecall, and never reads the validation part.
""",
    "lastfm": """
HetRec 2011 Last.fm; each user's artists split 8:1:1 at random by seed, as RecBole cuts them. All items are ranked
but those of the user's train part and, for the test, validation part.
""",
}
_HEAD = """# DICER on public data

Written by `attractor benchmark dicer` from the files beside it ([dicer/](dicer)), one a run; no number is typed by
hand. Test part, mean ± standard deviation over seeds. Training stops, and a configuration wins, by NDCG@10 of the
validation part only, while training of at most as many of its users as the configuration's `validation_users`.
Numbers of others are *in italics*, with their source.

Recall@K is hits / positives, CappedRecall@K is hits / min(positives, K), NDCG@K has an ideal list of min(positives,
K) hits. Equal scores go to the lower item number. Users without positives in a part are not in its mean. Minutes
are of training with the validations that steer it; memory is the process's peak.

BPR-MF and LightGCN (PyTorch Geometric's) have DICER's embedding size and its training loop; each had a few trials on
the first seed, listed below with their validation values, and the kept one's settings serve every seed. dicer_plus
learns its likeness first and its heads after, each to its own early stop: its epochs and steps are those of the
heads, and step 0 means that the likeness alone was best.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the page of the runs in `results`."""
    files = sorted(file for file in results.glob("*/*.json") if not is_temporary(file))
    write_text(page, page_text([read_json(file) for file in files]))


def page_text(results: Sequence[Result]) -> str:
    """The page of these runs, in Markdown."""
    parts = [_HEAD]
    for protocol in PROTOCOLS.values():
        groups = _by_arm([result for result in results if result["protocol"] == protocol.name])
        parts.append("\n".join(_section(protocol, groups)))
    return "\n".join(parts)


def _by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Runs by arm, by seed; those of another configuration than the first seed's are left out."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: int(result["seed"])):
        group = groups.setdefault(result["arm"], [])
        if not group or group[0]["identity"] == result["identity"]:
            group.append(result)
    return groups


def _section(protocol: Protocol, groups: Mapping[str, list[Result]]) -> Iterator[str]:
    yield f"## {protocol.name}\n"
    yield f"{_RULES[protocol.name].strip()}\n"
    yield from _split_of(groups)
    yield "```bash"
    yield f"attractor benchmark dicer --protocol {protocol.name} --seeds {max(map(len, groups.values()), default=3)}"
    yield "```\n"
    yield from _main_table(protocol, groups)
    if said := [*_comparisons(protocol, groups), *_departures(groups)]:
        yield from [*said, ""]
    if protocol.name == "paper":
        yield from _ablation_table(groups)
    yield from _trials(protocol, groups)
    yield from _environments(groups)


def _split_of(groups: Mapping[str, list[Result]]) -> Iterator[str]:
    for group in groups.values():
        facts = group[0]["split"]
        told = {name: f"{value:,}" for name, value in facts.items() if value is not None}
        yield (
            f"{told['users']} users, {told['items']} items, {told['relations']} relations; {told['train']} pairs to "
            f"train on, {told['validation']} of {told['validation_users']} users to validate, {told['test']} of "
            f"{told['test_users']} users to test (seed {group[0]['seed']}). {100 * facts['cold']:.1f} % of the test's "
            f"positives are items that nobody has in train.{_alignment(groups)}\n"
        )
        return


def _alignment(groups: Mapping[str, list[Result]]) -> str:
    """How the network fits the events, by the first run whose file tells: older ones were not checked."""
    for run in (run for group in groups.values() for run in group):
        lift, correlation = run["split"].get("lift"), run["split"].get("correlation")
        if lift is not None:
            ranks = "" if correlation is None else f", activity and degree correlate at {correlation:.2f}"
            return f" Friends share {lift:.2f} times the train items of shuffled pairs{ranks} (seed {run['seed']})."
    return ""


def _main_table(protocol: Protocol, groups: Mapping[str, list[Result]]) -> Iterator[str]:
    yield f"| model | {' | '.join(protocol.metrics)} | seeds | epochs | minutes | memory, MiB |"
    yield "|---" * (len(protocol.metrics) + 5) + "|"
    for arm, label in MAIN.items():
        if arm not in groups:
            yield f"| {label} | not run |" + " |" * (len(protocol.metrics) + 3)
            continue
        group = groups[arm]
        cells = [_spread([run["test"][metric] for run in group]) for metric in protocol.metrics]
        yield f"| {label} | {' | '.join(cells)} | {len(group)} | {_cost(group)} |"
    for row in PUBLISHED[protocol.name]:
        cells = [f"*{row.metrics[metric]:.4f}*" if metric in row.metrics else "" for metric in protocol.metrics]
        yield f"| *{row.model}, {row.source}* | {' | '.join(cells)} | | | | |"
    yield ""


def _comparisons(protocol: Protocol, groups: Mapping[str, list[Result]]) -> Iterator[str]:
    """Ours beside the same model's published number, and DICER beside our best baseline, whatever comes out."""
    for row in PUBLISHED[protocol.name]:
        if row.arm is not None and row.arm in groups:
            metric = next(name for name in protocol.metrics if name in row.metrics)
            ours = _mean(groups[row.arm], metric)
            yield f"- {MAIN[row.arm]}: {metric} {ours:.4f}, published {_against(ours, row.metrics[metric])}."
    baselines = [arm for arm in ("popularity", "bpr", "lightgcn") if arm in groups]
    headline = protocol.metrics[0]
    if baselines:
        best = max(baselines, key=lambda arm: _mean(groups[arm], headline))
        for arm in ("dicer", "dicer_plus"):
            if arm in groups:
                ours, theirs = _mean(groups[arm], headline), _mean(groups[best], headline)
                yield f"- {MAIN[arm]}: {headline} {ours:.4f}, our {MAIN[best]} {_against(ours, theirs)}."


def _departures(groups: Mapping[str, list[Result]]) -> Iterator[str]:
    """In which settings of training an arm is not the configuration of its name; how often it looks is left out."""
    for arm in ("dicer", "dicer_plus"):
        named = asdict(NAMED[arm]())
        for run in groups.get(arm, [])[:1]:
            other = {name: value for name, value in run["configuration"].items() if named.get(name, value) != value}
            told = [f"{name} {value} ({named[name]})" for name, value in other.items() if name not in _LOOKING]
            if told:
                yield f"- {MAIN[arm]}, otherwise than `{arm}` (in brackets), chosen on validation: {', '.join(told)}."


def _ablation_table(groups: Mapping[str, list[Result]]) -> Iterator[str]:
    """Each part's worth: our CappedRecall@10 and the paper's, and what each loses against the whole model."""
    metric = "CappedRecall@10"
    published = ABLATIONS[0].recall
    whole = groups.get(_WHOLE, [])
    assert published is not None
    yield "### Ablations\n"
    told = (
        f"{metric}; change is relative to DICER's of the same column, ours seed by seed. The paper gives its last two "
        "as changes only."
    )
    if whole:
        told += (
            " Ours, the whole model of this table too, have d = {dimension}, s = {hidden}, dropout {dropout}, "
            "{negatives} negatives, a learning rate of {learning_rate} and at most {steps} steps, each keeping its "
            "best by validation."
        ).format(**whole[0]["configuration"])
    yield f"{told}\n"
    yield "| variant | ours | change | seeds | *published* | *change* |"
    yield "|---|---|---|---|---|---|"
    for row in ABLATIONS:
        group = [run for run in groups.get(row.arm, []) if not whole or _size(run) == _size(whole[0])]
        ours = _spread([run["test"][metric] for run in group]) if group else "not run"
        change = _changes(group, whole, metric)
        told = f"*{row.recall:.4f}*" if row.recall is not None else ""
        lost = row.recall / published - 1 if row.recall is not None else -(row.loss or 0.0)
        yield f"| {row.label} | {ours} | {change} | {len(group) or ''} | {told} | *{_change(lost)}* |"
    yield ""
    if whole:
        yield from _limits(groups, whole[0])
    yield from _trust_of_ablations(groups, metric)


def _limits(groups: Mapping[str, list[Result]], whole: Result) -> Iterator[str]:
    """In what an ablation differs from the whole model beside the part it is named after."""
    limits = [
        ("graphs", "similar_cap", "hears only the {} most similar of a node"),
        ("configuration", "fanout", "hears at most {} drawn neighbours, friends and entries of a list"),
    ]
    told = [
        f"- {row.label}: {words.format(limit)}, where the whole model hears all."
        for row in ABLATIONS
        for run in groups.get(row.arm, [])[:1]
        for where, name, words in limits
        if (limit := run.get(where, {}).get(name)) is not None and whole.get(where, {}).get(name) is None
    ]
    if told:
        yield "\n".join(["For the sake of memory, beside the part that is named:", "", *told, ""])


def _size(run: Result) -> list[Any]:
    return [run["configuration"][name] for name in _SIZE]


def _changes(group: Sequence[Result], whole: Sequence[Result], metric: str) -> str:
    """By how much the runs differ from the whole model's of the same seed, mean ± standard deviation."""
    bases = {run["seed"]: run["test"][metric] for run in whole}
    changes = [run["test"][metric] / bases[run["seed"]] - 1 for run in group if bases.get(run["seed"])]
    if not changes:
        return ""
    spread = f" ± {100 * statistics.stdev(changes):.1f}" if len(changes) > 1 and any(changes) else ""
    return f"{100 * statistics.fmean(changes):+.1f}{spread} %"


def _trust_of_ablations(groups: Mapping[str, list[Result]], metric: str) -> Iterator[str]:
    """How much of DICER the small whole model of the ablations has learned, on the seeds that all have."""
    compared = {arm: {int(run["seed"]): run for run in groups.get(arm, ())} for arm in (_WHOLE, "dicer", "popularity")}
    seeds = sorted(set.intersection(*(set(runs) for runs in compared.values())))
    if not seeds:
        return
    small, full, popular = (_mean([runs[seed] for seed in seeds], metric) for runs in compared.values())
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    told = (
        f"How far to trust the changes: on {named} the whole model of this table has "
        f"{metric} {small:.4f}, DICER of the table above {full:.4f}, popularity {popular:.4f}."
    )
    if popular < full and small < full:
        told += (
            f" It has learned {100 * (small - popular) / (full - popular):.0f} % of what that one gains over "
            "popularity: a change says what a part is worth to a model that has come so far, not to DICER trained out."
        )
    if len(seeds) == 1:
        told += " One seed does not say how much of it is chance."
    yield f"{told}\n"


def _trials(protocol: Protocol, groups: Mapping[str, list[Result]]) -> Iterator[str]:
    """What competed on the validation part of the first seed, told by the settings in which the trials differ."""
    for arm, group in groups.items():
        competed, kept = group[0]["competed"], group[0]["trial"]
        if len(competed) < 2:
            continue
        settings = [trial["configuration"] for trial in competed]
        varied = [name for name in settings[0] if len({str(setting[name]) for setting in settings}) > 1]
        yield f"{MAIN.get(arm, arm)}, trials on seed {group[0]['seed']}, validation {protocol.selection}:\n"
        for k, trial in enumerate(competed):
            told = ", ".join(f"{name} {trial['configuration'][name]}" for name in varied)
            yield f"- {told}: {trial['validation'][protocol.selection]:.4f}{', kept' if k == kept else ''}"
        yield ""


def _environments(groups: Mapping[str, list[Result]]) -> Iterator[str]:
    environments = [
        run["environment"] | {"device": run["configuration"].get("device", "cpu")} for g in groups.values() for run in g
    ]
    told = sorted({", ".join(f"{name} {value}" for name, value in sorted(each.items())) for each in environments})
    if told:
        yield f"Run with {'; or '.join(told)}.\n"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{mean:.4f}"


def _mean(group: Sequence[Result], metric: str) -> float:
    return statistics.fmean(run["test"][metric] for run in group)


def _cost(group: Sequence[Result]) -> str:
    epochs, minutes = (statistics.fmean(run[name] for run in group) for name in ("epochs", "seconds"))
    memory = [run["peak_memory_mib"] for run in group if run["peak_memory_mib"] is not None]
    return f"{epochs:.0f} | {minutes / 60:.1f} | {f'{max(memory):,}' if memory else ''}"


def _against(ours: float, theirs: float) -> str:
    share = abs(ours / theirs - 1) if theirs else 0.0
    return f"{theirs:.4f}: ours is {100 * share:.1f} % {'below' if ours < theirs else 'above'}"


def _change(share: float) -> str:
    return f"{100 * share:+.1f} %"
