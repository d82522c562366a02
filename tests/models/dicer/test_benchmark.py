"""Runs are kept, found again, continued after a kill and never mixed; the page says only what files say."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export.cli import cli
from features.errors import MissingInput, SocialMisalignment
from features.files import read_json, write_json
from models.dicer.baselines import FactorConfig
from models.dicer.benchmark import Arm, Config, Places, Trained, arms, done, run_benchmark, shares, usual_arms
from models.dicer.config import dicer_tiny
from models.dicer.evaluation import Scorers
from models.dicer.protocols import PROTOCOLS, Protocol, Split
from models.dicer.published import ABLATIONS, PUBLISHED
from models.dicer.results_page import page_text, write_page
from tests.split_worlds import toy_protocol, toy_split

TINY = FactorConfig(dimension=4, learning_rate=0.05, pairs_per_step=64, epochs=6, validate_every=2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of tiny products only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_arms() -> dict[str, Arm]:
    """The arms as they are, with configurations that take a second; LightGCN has a trial that learns nothing."""
    trials: dict[str, tuple[Config, ...]] = {
        "popularity": arms("lastfm")["popularity"].trials,
        "bpr": (TINY,),
        "lightgcn": (
            dataclasses.replace(TINY, layers=2, learning_rate=1e-9),
            dataclasses.replace(TINY, layers=2),
        ),
        "dicer": (dicer_tiny(),),
    }
    return {name: dataclasses.replace(arms("lastfm")[name], trials=trial) for name, trial in trials.items()}


def tastes(seed: int) -> Split:
    """Of enough users to judge the network by, who are friends of one taste."""
    return toy_split(seed, users=400)


def strangers(split: Split) -> Split:
    """The same with the network's users numbered otherwise."""
    dealt = np.random.default_rng(0).permutation(split.users)
    return dataclasses.replace(split, friends=dealt[split.friends])


def run(
    tmp_path: Path, chosen: list[Arm], seeds: int = 1, *, sampled: bool = False, protocol: Protocol | None = None
) -> list[str]:
    said: list[str] = []
    ticks = itertools.count()
    places = Places(tmp_path, tmp_path / "work", tmp_path / "results")
    run_benchmark(
        protocol or toy_protocol(sampled=sampled),
        chosen,
        range(seeds),
        places=places,
        clock=lambda: float(next(ticks)),
        announce=said.append,
    )
    return said


def result(tmp_path: Path, arm: str, seed: int = 0) -> dict:
    return read_json(tmp_path / "results" / "toy" / f"{arm}-{seed}.json")


@pytest.mark.parametrize("sampled", [False, True])
def test_every_arm_runs_and_is_found_again(tmp_path: Path, sampled: bool) -> None:
    chosen = list(tiny_arms().values())
    run(tmp_path, chosen, sampled=sampled)
    for arm in chosen:
        told = result(tmp_path, arm.name)
        assert set(told["test"]) == set(told["validation"]) >= {"Recall@5", "CappedRecall@10", "NDCG@10"}
        assert told["steps"] >= told["best_step"] >= 0
        assert told["split"]["test_users"] == 40
        assert told["environment"]["torch"]
        assert told["peak_memory_mib"] is None or told["peak_memory_mib"] > 50
    assert result(tmp_path, "dicer")["test"]["NDCG@10"] > result(tmp_path, "popularity")["test"]["NDCG@10"]
    before = {file: file.read_bytes() for file in (tmp_path / "results").rglob("*.json")}
    assert all("re-used" in line for line in run(tmp_path, chosen, sampled=sampled))
    assert before == {file: file.read_bytes() for file in (tmp_path / "results").rglob("*.json")}
    assert not list((tmp_path / "work").rglob("*.safetensors")), "a finished run leaves no checkpoint"


def test_shares_keep_the_seeds_of_trials_together() -> None:
    chosen = [arms("full")[name] for name in ("lightgcn", "dicer")]
    assert [(share.arms, share.seeds) for share in shares(chosen, (0, 1))] == [
        (("dicer",), (0,)),
        (("dicer",), (1,)),
        (("lightgcn",), (0, 1)),
    ]


def test_a_later_seed_needs_the_choice_of_the_first(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="lightgcn: seed 0 chooses among its trials; run that first"):
        run_benchmark(
            toy_protocol(sampled=False),
            [tiny_arms()["lightgcn"]],
            (1,),
            places=Places(tmp_path, tmp_path / "work", tmp_path / "results"),
            clock=lambda: 0.0,
            announce=lambda _: None,
        )


def test_the_first_seed_picks_the_trial_on_validation_for_all(tmp_path: Path) -> None:
    run(tmp_path, [tiny_arms()["lightgcn"]], 2)
    first, second = result(tmp_path, "lightgcn"), result(tmp_path, "lightgcn", 1)
    values = [trial["validation"]["NDCG@10"] for trial in first["competed"]]
    assert (first["trial"], second["trial"]) == (1, 1)
    assert values[1] > values[0]
    assert len(second["competed"]) == 1
    assert second["configuration"] == first["configuration"]
    assert second["test"] != first["test"]


def test_another_configuration_is_another_run(tmp_path: Path) -> None:
    arm = tiny_arms()["bpr"]
    run(tmp_path, [arm])
    other = dataclasses.replace(arm, trials=(dataclasses.replace(TINY, regularisation=0.5),))
    places = Places(tmp_path, tmp_path / "work", tmp_path / "results")
    data = toy_split(0).fingerprint()
    assert done(toy_protocol(), arm, 0, places, fingerprint=data) is not None
    assert done(toy_protocol(), other, 0, places, fingerprint=data) is None
    heard = dataclasses.replace(arm, graphs={"similar_cap": 3})
    assert done(toy_protocol(), heard, 0, places, fingerprint=data) is None


def test_other_data_is_another_run(tmp_path: Path) -> None:
    arm, ran = tiny_arms()["popularity"], result
    run(tmp_path, [arm])
    first = ran(tmp_path, "popularity")
    assert first["data"] == toy_split(0).fingerprint()
    grown = toy_protocol(users=50)
    assert not any("re-used" in line for line in run(tmp_path, [arm], protocol=grown))
    assert ran(tmp_path, "popularity")["split"]["users"] == 50
    assert ran(tmp_path, "popularity")["data"] != first["data"]
    assert ["configuration and data" in line for line in run(tmp_path, [arm], protocol=grown)] == [True]


def test_a_run_from_before_its_data_was_recorded_stays_done(tmp_path: Path) -> None:
    arm = tiny_arms()["popularity"]
    run(tmp_path, [arm])
    old = {name: value for name, value in result(tmp_path, "popularity").items() if name != "data"}
    write_json(tmp_path / "results" / "toy" / "popularity-0.json", old)
    assert ["data that it does not name" in line for line in run(tmp_path, [arm])] == [True]
    assert result(tmp_path, "popularity") == old


def test_a_split_is_read_once_for_all_arms_of_its_seed(tmp_path: Path) -> None:
    seen: list[int] = []

    def read(data: Path, seed: int) -> Split:
        seen.append(seed)
        return toy_split(seed)

    counted = dataclasses.replace(toy_protocol(), read=read)
    run(tmp_path, [tiny_arms()["popularity"], tiny_arms()["bpr"]], protocol=counted)
    assert seen == [0]
    run(tmp_path, [tiny_arms()["popularity"]], 3, protocol=counted)
    run(tmp_path, [tiny_arms()["popularity"]], 3, protocol=counted)
    assert seen == [0, *range(3), *range(3)]


def test_a_network_of_other_people_is_refused_with_its_figures(tmp_path: Path) -> None:
    wrong = dataclasses.replace(toy_protocol(), read=lambda data, seed: strangers(tastes(seed)))
    with pytest.raises(SocialMisalignment, match=r"friends share \d\.\d\d times .* Nothing was run\.") as refused:
        run(tmp_path, [tiny_arms()["popularity"]], protocol=wrong)
    assert refused.value.figures["lift"] < 1.2
    assert not (tmp_path / "results").exists()


def test_how_the_network_fits_is_kept_with_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    right = dataclasses.replace(toy_protocol(), read=lambda data, seed: tastes(seed))
    run(tmp_path, [tiny_arms()["popularity"]], protocol=right)
    assert not caplog.records
    assert result(tmp_path, "popularity")["split"]["lift"] > 1.4
    run(tmp_path / "few", [tiny_arms()["popularity"]])
    (warned,) = caplog.records
    assert "social alignment is unknown" in warned.getMessage()


class Killed(BaseException):
    """What a killed process would be to the code that runs in it."""


@pytest.mark.parametrize("name", ["lightgcn", "dicer"])
def test_a_killed_run_continues_and_ends_the_same(tmp_path: Path, name: str) -> None:
    arm = tiny_arms()[name]
    run(tmp_path / "whole", [arm])
    looks = itertools.count()

    def killed(
        split: Split, config: Config, validate: Callable[[Scorers], float], seed: int, checkpoint: Path
    ) -> Trained:
        def look(scorers: Scorers) -> float:
            if next(looks) == 2:
                raise Killed
            return validate(scorers)

        return arm.train(split, config, look, seed, checkpoint)

    with pytest.raises(Killed):
        run(tmp_path / "killed", [dataclasses.replace(arm, train=killed)])
    assert list((tmp_path / "killed" / "work").rglob("state.json"))
    run(tmp_path / "killed", [arm])
    whole, continued = result(tmp_path / "whole", name), result(tmp_path / "killed", name)
    assert continued["test"] == whole["test"]
    assert continued["best_step"] == whole["best_step"]
    assert continued["seconds"] > 0


def test_arms_have_names_that_the_page_knows() -> None:
    known = arms("lastfm")
    assert set(usual_arms("lastfm")) <= set(usual_arms("paper")) <= set(known)
    assert {"popularity", "bpr", "lightgcn", "dicer"} <= set(usual_arms("full"))
    assert "layers_3" not in usual_arms("lastfm"), "ablations belong to the paper's protocol"
    assert {row.arm for row in ABLATIONS} <= set(usual_arms("paper"))
    for name, protocol in PROTOCOLS.items():
        measured = {f"{metric.split('@')[0]}@{k}" for metric in protocol.metrics for k in protocol.cutoffs}
        assert set(protocol.metrics) <= measured
        for row in PUBLISHED[name]:
            assert set(row.metrics) <= set(protocol.metrics)
            assert row.arm is None or row.arm in known


def made_up(arm: str, seed: int, value: float, *, identity: str = "a") -> dict:
    """A run's file with the same value for every metric of the paper's protocol."""
    protocol = PROTOCOLS["paper"]
    metrics = dict.fromkeys(protocol.metrics, value)
    settings = dataclasses.asdict(arms("paper")[arm].trials[0])
    trial = {"configuration": {"kind": "made up", **settings}, "validation": metrics, "best_step": 1}
    split = {
        "users": 7375, "items": 105114, "train": 226120, "validation": 28265, "test": 28265,
        "validation_users": 5886, "test_users": 5993, "relations": 111781, "cold": 0.25,
    }  # fmt: skip
    return trial | {
        "identity": identity, "protocol": "paper", "arm": arm, "seed": seed, "trial": 0, "competed": [trial],
        "test": metrics, "steps": 5, "epochs": 10.0, "seconds": 90.0, "peak_memory_mib": 1234, "split": split,
        "environment": {"torch": "2"},
    }  # fmt: skip


def test_the_page_tells_runs_and_says_what_was_not_run(tmp_path: Path) -> None:
    runs = [made_up("dicer", 0, 0.2), made_up("dicer", 1, 0.3), made_up("dicer", 2, 0.9, identity="older")]
    for each in [*runs, made_up("layers_3", 0, 0.25), made_up("no_social", 0, 0.2)]:
        write_json(tmp_path / "dicer" / "paper" / f"{each['arm']}-{each['seed']}.json", each)
    write_page(tmp_path / "dicer", tmp_path / "dicer.md")
    page = (tmp_path / "dicer.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    row = next(line for line in lines if line.startswith("| DICER |"))
    assert row.startswith("| DICER | 0.2500 ± 0.0707 |")
    assert row.endswith("| 2 | 10 | 1.5 | 1,234 |")
    assert "| LightGCN | not run |" in page
    assert "| *DICER, Fu et al., WWW 2021, Ciao* | *0.3151* |" in page
    assert "- DICER: CappedRecall@10 0.2500, published 0.3151: ours is 20.7 % below." in lines
    assert "| without social | 0.2000 | -20.0 % | 1 | *0.2945* | *-6.5 %* |" in lines
    assert "| no GNN | not run |  |  | *0.2190* | *-30.5 %* |" in lines
    assert "| without user interest | not run |  |  |  | *-4.5 %* |" in lines
    for table in page.split("\n\n"):
        cells = [line.count("|") for line in table.splitlines() if line.startswith("|")]
        assert len(set(cells)) <= 1, table


def test_the_page_tells_how_the_network_fits_where_a_run_has_it() -> None:
    old, new = made_up("popularity", 0, 0.1), made_up("dicer", 1, 0.2)
    measured = new | {"split": new["split"] | {"lift": 1.6075, "correlation": 0.5812}}
    without, page = page_text([old, new]), page_text([old, measured])
    said = (
        " Friends share 1.61 times the train items of shuffled pairs, activity and degree correlate at 0.58 (seed 1)."
    )
    assert said in page
    assert page.replace(said, "") == without, "the page of runs that do not have the figures is as it was"
    unknown = new | {"split": new["split"] | {"lift": None, "correlation": None}}
    assert page_text([old, unknown]) == without


def test_the_page_says_how_far_the_ablations_can_be_trusted() -> None:
    runs = [made_up("popularity", 0, 0.2), made_up("popularity", 1, 0.3), made_up("dicer", 0, 0.4)]
    assert "How far to trust" not in page_text(runs)
    (told,) = (line for line in page_text([*runs, made_up("layers_3", 0, 0.25)]).splitlines() if "trust" in line)
    assert told.startswith("How far to trust the changes: on seed 0 the whole model of this table has CappedRecall@10 ")
    assert "0.2500, DICER of the table above 0.4000, popularity 0.2000. It has learned 25 % of what that one" in told
    assert told.endswith("One seed does not say how much of it is chance.")
    (sizes,) = (line for line in page_text([made_up("layers_3", 0, 0.25)]).splitlines() if "s = 32" in line)
    assert "d = 32, s = 32, dropout 0.2, 4 negatives, a learning rate of 0.01 and at most 200 steps" in sizes
    (level,) = (line for line in page_text([*runs, made_up("layers_3", 0, 0.45)]).splitlines() if "trust" in line)
    assert "It has learned" not in level


def test_an_ablation_is_held_against_the_whole_model_of_its_seed_and_size() -> None:
    whole = [made_up("layers_3", 0, 0.2), made_up("layers_3", 1, 0.4)]
    parts = [made_up("no_social", 0, 0.1), made_up("no_social", 1, 0.3), made_up("no_social", 2, 0.4)]
    lines = page_text([*whole, *parts]).splitlines()
    assert "| DICER (L = 3) | 0.3000 ± 0.1414 | +0.0 % | 2 | *0.3151* | *+0.0 %* |" in lines
    assert "| without social | 0.2667 ± 0.1528 | -37.5 ± 17.7 % | 3 | *0.2945* | *-6.5 %* |" in lines
    assert not any(line.startswith("For the sake of memory") for line in lines)
    capped = made_up("gat", 0, 0.2) | {"graphs": {"similar_cap": 20}}
    attending = made_up("attention_instead_of_modulation", 0, 0.2)
    lines = page_text([*whole, capped, attending]).splitlines()
    all_heard = "where the whole model hears all."
    assert f"- GAT instead of its GNN: hears only the 20 most similar of a node, {all_heard}" in lines
    drawn = "hears at most 16 drawn neighbours, friends and entries of a list"
    assert f"- attention instead of modulation: {drawn}, {all_heard}" in lines
    larger = made_up("gat", 0, 0.5)
    larger["configuration"] = larger["configuration"] | {"dimension": 128}
    assert "| GAT instead of its GNN | not run |  |  | *0.3077* | *-2.3 %* |" in page_text([*whole, larger])


def test_a_page_of_nothing_invents_nothing() -> None:
    page = page_text([])
    assert page.count("not run") >= 12
    assert "±" not in page.split("## paper")[1]


def test_the_command_writes_the_page_and_names_unknown_arms(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path)]
    ran = CliRunner().invoke(cli, ["benchmark", "dicer", "--page-only", *results])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "dicer.md").is_file()
    for wrong, message in ((["--protocol", "paper", "--arms", "nobody"], "nobody"), ([], "--page-only")):
        refused = CliRunner().invoke(cli, ["benchmark", "dicer", *wrong, *results])
        assert refused.exit_code == 2
        assert message in refused.output
