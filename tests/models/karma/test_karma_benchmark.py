"""Runs are kept, found again, continued and never mixed; the page says only what files say."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export.cli import cli
from features.files import read_json, write_json
from models.karma import benchmark, judging
from models.karma.baselines import Neighbours
from models.karma.benchmark import Arms, Places, arms, done, run_benchmark, same_settings, shares
from models.karma.comparison import Run, hit_gain, read_runs, recall_gain, stage_gain
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.evaluation import encode_catalogue, encode_users, user_sequences
from models.karma.figures import write_figures
from models.karma.judging import Exam, exam_of, stage_of
from models.karma.results_page import write_page
from models.karma.training import new_network, prepare, read_world
from models.karma.verdicts import Verdict, judged, verdicts
from tests.karma_world import training_set

TINY = replace(karma_tiny(), steps=6, pretraining_steps=6, validate_every=3)


@pytest.fixture(scope="module")
def exam() -> Exam:
    return exam_of(training_set(users=90), TINY, facets={"colour": ("red", "blue", "green")})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.karma.downstream.PRE_RANKED", 12)
    monkeypatch.setattr(judging, "DRAWS", 20)


def test_arms_change_what_finished_runs_were_made_with() -> None:
    off = {"lambda_generation": 0.0, "lambda_reconstruction": 0.0}
    assert {
        "pretrained": {**off, "steps": 0},
        "action_only": off,
        "plus_generation": {"lambda_reconstruction": 0.0},
        "plus_reconstruction": {"lambda_generation": 0.0},
        "karma": {},
        "action_only_compressed": {**off, "history": "compressed"},
        "karma_compressed": {"history": "compressed"},
    } == benchmark.SWITCHES


def tiny_arms(*names: str) -> Arms:
    known = arms(TINY)
    sasrec = tuple(replace(trial, hidden=8, layers=1, heads=2, steps=4, validate_every=2) for trial in known["sasrec"])
    return {name: sasrec if name == "sasrec" else known[name] for name in names or known}


def run(folder: Path, exam: Exam, chosen: Arms, seeds: int = 1) -> list[str]:
    said: list[str] = []
    ticks = itertools.count()
    places = Places(folder / "work", folder / "karma")
    clock = lambda: float(next(ticks))  # noqa: E731
    run_benchmark("synthetic", exam, chosen, range(seeds), places=places, clock=clock, announce=said.append)
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, exam: Exam) -> Path:
    folder = tmp_path_factory.mktemp("karma")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.karma.downstream.PRE_RANKED", 12)
        patch.setattr(judging, "DRAWS", 20)
        run(folder, exam, tiny_arms())
        run(folder, exam, tiny_arms("action_only", "karma"), 2)
    return folder


def test_every_arm_runs_and_is_found_again(finished: Path, exam: Exam) -> None:
    for arm in arms(TINY):
        told = read_json(finished / "karma" / "synthetic" / f"{arm}-0.json")
        assert told["environment"]["torch"]
        assert told["facts"]["positions"] == len(exam.test.positions)
        if arm != "pretrained":
            assert 0.0 <= told["action"]["all"]["HR@10"] <= told["action"]["all"]["HR@50"] <= 1.0
    assert all("re-used" in line for line in run(finished, exam, tiny_arms()))
    left = [file for file in (finished / "work").rglob("*.safetensors") if "pretraining" not in str(file)]
    assert not left, "a finished run leaves no checkpoint"


def test_arms_of_a_seed_start_alike_and_end_apart(finished: Path) -> None:
    starts = [start.name.split("-")[1:] for start in (finished / "work" / "synthetic").glob("pretraining-*")]
    assert sorted(seed for seed, _ in starts) == ["0", "0", "1"], "seed 0 has one of words and one of soft tokens"
    told = [read_json(finished / "karma" / "synthetic" / f"{arm}-0.json") for arm in ("action_only", "karma")]
    assert told[0]["collapse"]["strongest"] != told[1]["collapse"]["strongest"]
    lambdas = [trial["trials"][0]["configuration"]["lambda_generation"] for trial in told]
    assert lambdas == [0.0, 0.3]


def test_shares_keep_together_what_must_not_be_done_twice() -> None:
    chosen, together = arms(TINY), {}
    for share in shares(chosen, (0, 2)):
        for arm in share.arms:
            together.setdefault(arm, []).append((share.seeds, frozenset(share.arms)))
    assert together.keys() == chosen.keys()
    words = frozenset({"pretrained", "action_only", "plus_generation", "plus_reconstruction", "karma"})
    soft = frozenset({"action_only_compressed", "karma_compressed"})
    assert together["karma"] == [((0,), words), ((2,), words)]
    assert together["karma_compressed"] == [((0,), soft), ((2,), soft)]
    assert together["sasrec"] == [((0, 2), frozenset({"sasrec"}))]


def test_trials_compete_on_validation(finished: Path, exam: Exam, tmp_path: Path) -> None:
    told = read_json(finished / "karma" / "synthetic" / "item_to_item-0.json")
    assert len(told["competed"]) == 4
    assert told["competed"][str(told["trial"])] == max(told["competed"].values())
    run(tmp_path, exam, tiny_arms("item_to_item"), 2)
    later = read_json(tmp_path / "karma" / "synthetic" / "item_to_item-1.json")
    assert (later["trial"], len(later["competed"])) == (told["trial"], 1)


def test_settings_that_came_later_do_not_undo_a_run() -> None:
    stored = asdict(TINY)
    del stored["lambda_picture"]  # as if the run had been before there was such a setting
    assert same_settings(stored, TINY)
    assert not same_settings(stored, replace(TINY, lambda_picture=0.1))
    assert not same_settings(asdict(TINY), replace(TINY, steps=7))
    assert not same_settings(asdict(TINY) | {"gone": 1}, TINY)


def test_other_data_settings_or_measures_are_other_runs(
    finished: Path, exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, trials = Places(finished / "work", finished / "karma"), tiny_arms()["karma"]
    assert done("synthetic", exam, "karma", trials, 0, places) is not None
    assert done("synthetic", exam, "karma", (replace(TINY, learning_rate=1.0),), 0, places) is None
    elsewhere = replace(exam, training_set=replace(exam.training_set, fingerprint="other"))
    assert done("synthetic", elsewhere, "karma", trials, 0, places) is None
    monkeypatch.setattr(benchmark, "VERSION", 99)
    assert done("synthetic", exam, "karma", trials, 0, places) is None


class Killed(BaseException):
    """What a killed process would be to the code that runs in it."""


def test_a_killed_run_continues_and_ends_the_same(
    tmp_path: Path, finished: Path, exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    import models.karma.training as training

    whole, looks = training.karma_loss, itertools.count()

    def killed(*arguments: object) -> object:
        if next(looks) == 4:  # after the look at step 3
            raise Killed
        return whole(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "karma_loss", killed)
        run(tmp_path, exam, tiny_arms("karma"))
    assert list((tmp_path / "work").rglob("training/state.json"))
    run(tmp_path, exam, tiny_arms("karma"))
    ranks = [read_runs(folder / "karma" / "synthetic")["karma"][0].arrays["rank"] for folder in (finished, tmp_path)]
    np.testing.assert_array_equal(*ranks)


def test_comparisons_are_those_of_the_arrays(finished: Path) -> None:
    runs = read_runs(finished / "karma" / "synthetic")
    pairs = list(zip(runs["karma"], runs["action_only"], strict=True))
    assert len(pairs) == 2
    found = hit_gain(runs, "karma", "action_only", 10)
    assert found is not None
    each = [ours.hits(10).mean() - theirs.hits(10).mean() for ours, theirs in pairs]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.low <= found.mean <= found.high
    gain = stage_gain(runs["karma"], "auc", "with_score")
    told = [run.figures["downstream"]["auc"] for run in runs["karma"]]
    assert gain is not None
    assert gain.mean == pytest.approx(np.mean([each["with_score"] - each["base"] for each in told]))
    ours, theirs = runs["karma"][0], runs["item_to_item"][0]
    both = (ours.arrays["rank"] <= 5) | (theirs.arrays["rank"] <= 5)
    recalled = [recall_gain([ours], theirs, 10, beside=beside) for beside in (False, True)]
    expected = [hits.mean() - theirs.hits(10).mean() for hits in (ours.hits(10), both)]
    assert [found and found.mean for found in recalled] == pytest.approx(expected)
    assert recall_gain([], theirs, 10) is None
    assert hit_gain(runs, "karma", "nobody", 10) is None


def test_runs_of_other_settings_are_not_compared(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    shutil.copytree(finished / "karma" / "synthetic", folder)

    def change(name: str, **settings: object) -> None:
        told = read_json(folder / f"{name}.json")
        stored = told["trials"][0]["configuration"] | settings
        told["trials"][0]["configuration"] = {name: value for name, value in stored.items() if value is not None}
        write_json(folder / f"{name}.json", told)

    change("karma-1", lambda_picture=None)  # as if the run had been before there was such a setting
    assert [len(read_runs(folder)[arm]) for arm in ("karma", "action_only", "pretrained")] == [2, 2, 1]
    change("karma-1", learning_rate=1.0)
    assert len(read_runs(folder)["karma"]) == 1
    change("karma-0", learning_rate=1.0)
    assert "karma" not in read_runs(folder)


def test_the_page_has_tables_figures_and_verdicts(finished: Path) -> None:
    page = finished / "karma.md"
    write_page(finished / "karma", page)
    text = page.read_text(encoding="utf-8")
    assert "| KARMA | " in text
    assert "Not run; `attractor benchmark karma --data lastfm` does it." in text
    for name in ("attention", "sinks", "gains"):
        assert f"](karma/{name}-synthetic.svg)" in text
        assert (finished / "karma" / f"{name}-synthetic.svg").stat().st_size < 400_000
    assert text.count("interval without zero") == 3
    assert text.count("| KARMA, compressed | ") >= 10, "in every table"
    assert "Over the seeds that both have, compressed histories have " in text
    for table in text.split("\n\n"):
        cells = [line.count("|") for line in table.splitlines() if line.startswith("|")]
        assert len(set(cells)) <= 1, table
    before = {file: file.read_bytes() for file in (finished / "karma").glob("*.svg")}
    write_page(finished / "karma", page)
    assert before == {file: file.read_bytes() for file in (finished / "karma").glob("*.svg")}


def test_the_page_names_a_pre_trained_backbone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "karma", tmp_path / "karma")
    for file in (tmp_path / "karma" / "synthetic").glob("*.json"):
        told = read_json(file)
        for trial in told["trials"]:
            if "backbone" in trial["configuration"]:
                trial["configuration"] |= {"backbone": "org/model", "adaptation": "lora"}
        write_json(file, told)
    write_page(tmp_path / "karma", tmp_path / "karma.md")
    text = (tmp_path / "karma.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| KARMA | ") and "steps" in line)
    assert row.endswith("backbone org/model, backbone_revision main, adaptation lora |")


def test_verdicts_are_no_unless_shown(finished: Path) -> None:
    runs = read_runs(finished / "karma" / "synthetic")
    assert [verdict.met for verdict in judged({})] == [None] * 5
    for history in ("", "_compressed"):
        arm, same = f"action_only{history}", runs[f"action_only{history}"]
        gains, cold, sinks, accuracy, _ = judged({arm: same, f"karma{history}": same}, history=history)
        assert (gains.met, accuracy.met) == (False, False)
        assert cold.met in (False, None)
        if history:  # none of this market's has 16 soft tokens
            assert (sinks.found, sinks.met) == ("not measured", None)
        else:
            assert sinks.met is False, "no less than before, or nothing to halve"


def test_a_clear_win_is_a_yes(finished: Path) -> None:
    runs = read_runs(finished / "karma" / "synthetic")
    theirs = [better_or_worse(run, rank=10_000, sinks=0.4, accuracy=0.1, auc=0.6) for run in runs["action_only"]]
    ours = [better_or_worse(run, rank=1, sinks=0.1, accuracy=0.4, auc=0.8) for run in runs["karma"]]
    won = judged({"action_only": theirs, "karma": ours})
    assert [verdict.met for verdict in won] == [True] * 5
    lost = judged({"action_only": ours, "karma": theirs})
    assert [verdict.met for verdict in lost] == [False] * 4 + [True], "the ranker's aim is against no embedding"
    none = judged({"karma": [better_or_worse(run, rank=1, sinks=0.1, accuracy=0.4, auc=0.4) for run in runs["karma"]]})
    assert [verdict.met for verdict in none] == [None] * 4 + [False]


def better_or_worse(run: Run, *, rank: int, sinks: float, accuracy: float, auc: float) -> Run:
    """A run whose every target has one rank, every tenth position a cold item, with these figures."""
    count = len(run.arrays["rank"])
    decoded = {whose: {"token_accuracy": accuracy} for whose in ("own", "shuffled")}
    return Run(
        {
            **run.figures,
            "collapse": {"sink_share": [[sinks]]},
            "fidelity": {"decoded": decoded},
            "downstream": {"auc": {"base": 0.5, "with_z": auc}},
        },
        {
            **run.arrays,
            "rank": np.full(count, rank),
            "cold": np.arange(count) % 10 == 0,
            "replicates_auc_with_z": auc - 0.5 + np.linspace(-0.01, 0.01, 100),
        },
    )


def test_runs_of_an_older_version_are_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = finished / "older.md"
    write_page(finished / "karma", page)
    assert "These runs are of version" not in page.read_text(encoding="utf-8")
    monkeypatch.setattr("models.karma.results_page.VERSION", judging.VERSION + 1)
    monkeypatch.setattr("models.karma.results_page.CHANGES", {judging.VERSION + 1: "all is otherwise"})
    write_page(finished / "karma", page)
    assert "Since then all is otherwise. `attractor benchmark karma --data synthetic` runs" in page.read_text("utf-8")


def test_an_aim_is_met_by_three_seeds_and_not_by_fewer(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = read_runs(finished / "karma" / "synthetic")
    assert [verdict.seeds for verdict in judged(runs)] == [2] * 5
    one_pair = {**runs, "action_only": runs["action_only"][:1]}
    assert [verdict.seeds for verdict in judged(one_pair)] == [1, 1, 1, 1, 2], "the ranker's aim needs KARMA alone"
    for count, said in ((1, "on 1 of 3 seeds"), (2, "on 2 of 3 seeds"), (3, "**yes**")):
        found = [Verdict("aim", "found", True, count)]
        monkeypatch.setattr("models.karma.verdicts.judged", lambda *_, history="", found=found: found)
        assert list(verdicts({}))[2] == f"| aim | found | {said} | found | {said} |"


def test_a_page_of_few_arms_says_what_was_not_run(tmp_path: Path, exam: Exam) -> None:
    run(tmp_path, exam, tiny_arms("popularity"))
    write_page(tmp_path / "karma", tmp_path / "karma.md")
    text = (tmp_path / "karma.md").read_text(encoding="utf-8")
    assert "| KARMA | not run |" in text
    assert text.count("| not run |") >= 10
    for table in text.split("\n\n"):
        cells = [line.count("|") for line in table.splitlines() if line.startswith("|")]
        assert len(set(cells)) <= 1, table


def test_figures_are_drawn_of_any_one_arm(tmp_path: Path, finished: Path) -> None:
    runs = read_runs(finished / "karma" / "synthetic")
    some = {arm: runs[arm] for arm in ("item_to_item", "plus_generation")}
    assert write_figures(some, "synthetic", tmp_path) == [f"{name}-synthetic.svg" for name in ("attention", "sinks")]


def test_histories_whose_attention_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match="history = tokens"):
        exam_of(training_set(users=90), replace(TINY, history="compressed"), facets={})


@torch.no_grad()
def test_compressed_histories_are_judged_as_they_were_learned(exam: Exam) -> None:
    preparation = prepare(exam.training_set.train, replace(TINY, history="compressed", compressed_tokens=2))
    world, targets = read_world(exam.training_set.train, preparation), exam.validation.positions.targets
    torch.manual_seed(0)
    network = new_network(preparation).eval()
    stage = stage_of(exam.validation, network)
    sequences = user_sequences(targets, world.catalogue, limit=network.history_limit)
    np.testing.assert_array_equal(stage.interests, encode_users(network, sequences))
    np.testing.assert_array_equal(stage.embeddings, encode_catalogue(network, world.catalogue))


def test_item_to_item_is_listed_by_its_windows() -> None:
    trials = arms(KarmaConfig())["item_to_item"]
    assert {trial.window for trial in trials if isinstance(trial, Neighbours)} == {0, 1, 5, 20}


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    results = ["--results", str(tmp_path)]
    ran = CliRunner().invoke(cli, ["benchmark", "karma", "--page-only", *results])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "karma.md").is_file()
    for wrong, message in (
        (["--data", "synthetic", "--arms", "nobody"], "nobody"),
        (["--data", "synthetic", "--arms", ""], "--arms: expected some of"),
        (["--data", "lastfm", "--users", "300"], "of the synthetic market"),
        (["--data", "synthetic", "--adaptation", "lora"], "--adaptation goes with --backbone"),
        (["--data", "synthetic", "--backbone", "org/model", "--results", "docs/results"], "--backbone needs --results"),
        ([], "--page-only"),
    ):
        refused = CliRunner().invoke(cli, ["benchmark", "karma", *results, *wrong])
        assert refused.exit_code == 2
        assert message in refused.output


def test_the_command_lands_builds_and_runs(tmp_path: Path) -> None:
    asked = ["--data", "synthetic", "--users", "300", "--items", "200"]
    asked += ["--seeds", "1", "--arms", "popularity,item_to_item"]
    places = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    for _ in range(2):
        ran = CliRunner().invoke(cli, ["benchmark", "karma", *asked, *places])
        assert ran.exit_code == 0, ran.output
    assert ran.output.count("re-used") == 2
    text = (tmp_path / "results" / "karma.md").read_text(encoding="utf-8")
    assert "| item-to-item cosine | " in text
