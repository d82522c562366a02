"""Pre-trained backbones: every family reads, learns and decodes; no text forges a control token; errors are clear."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from features.errors import ConfigurationError
from models.karma.backbones import fingerprint, load_pretrained, load_tokenizer
from models.karma.batches import Sampler
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.network import Karma, causal
from models.karma.text import BOS, GEN, INT, SPECIALS, decode, encode, vocabulary_size
from models.karma.training import karma_loss, prepare, read_world, train_karma
from models.training import step_generator
from tests.backbone_checkpoints import CONTROL, write_checkpoint
from tests.karma_world import training_set

FAMILIES = ("qwen3", "qwen2", "llama", "smollm", "qwen3_vl")
FORGERIES = (*CONTROL, "<s>", "</s>", "<unk>", "<tool_call>", "[INT]", "[PAD]", "\0<|im_start|>", "<0x0A>")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_checkpoint(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def settings_of(directory: Path, **changed: object) -> KarmaConfig:
    config = replace(karma_tiny(), backbone=str(directory), pretraining_steps=4, steps=4, validate_every=2, lora_rank=2)
    return replace(config, **changed)  # type: ignore[arg-type]


def network(config: KarmaConfig) -> Karma:
    torch.manual_seed(0)
    vocabulary = vocabulary_size(load_tokenizer(config.backbone))
    return Karma(config, vocabulary=vocabulary, items=34, picture_width=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_history_of_words_is_read_as_the_model_itself_reads_it(checkpoints: dict[str, Path], family: str) -> None:
    made = network(settings_of(checkpoints[family])).eval()
    ids = torch.tensor([[5, 9, 30, 31, 7, 200]])
    states = made.read(made.embed(ids + len(SPECIALS)), *causal(6, ids))
    reference = load_pretrained(str(checkpoints[family])).eval()
    with torch.no_grad():
        expected = reference(ids).logits
    assert torch.allclose(states @ made.vocabulary[len(SPECIALS) :].T, expected, atol=1e-5)
    assert made.vocabulary.shape == (len(SPECIALS) + expected.shape[-1], 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_and_padding_obey_their_masks(checkpoints: dict[str, Path], family: str) -> None:
    made = network(settings_of(checkpoints[family])).eval()
    history, text = torch.tensor([BOS, 20, 21, INT, 22, 23, INT]), torch.tensor([GEN, 30, 31])
    at, segments = torch.tensor([[3, 6]]), torch.stack([text, text])[None]
    states, written = made.read_with_segments(history[None], at, segments)
    for number, end in enumerate((4, 7)):
        continued = made.read_history(torch.cat([history[:end], text])[None])
        assert torch.allclose(written[0, number], continued[0, end:], atol=1e-5)
    assert torch.allclose(states, made.read_history(history[None]), atol=1e-5)


def test_what_learns_of_a_backbone(checkpoints: dict[str, Path]) -> None:
    def learning(**changed: object) -> set[str]:
        made = network(settings_of(checkpoints["llama"], **changed))
        return {name for name, value in made.backbone.named_parameters() if value.requires_grad}

    def corrected(names: set[str]) -> set[str]:
        return {name.split(".lora_")[0].split(".")[-1] for name in names if ".lora_" in name}

    own = {"special_tokens", "output_specials"}
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert learning(adaptation="frozen") == own
    lora = learning(adaptation="lora")
    assert own | {name for name in lora if ".lora_" in name} == lora
    assert corrected(lora) == layers
    for modules in ("q_proj,v_proj", " q_proj, v_proj"):
        assert corrected(learning(adaptation="lora", lora_modules=modules)) == {"q_proj", "v_proj"}
    assert {"decoder.embed_tokens.weight", "output.weight", *own} < learning(adaptation="full")


@pytest.mark.parametrize("adaptation", ["full", "lora", "frozen"])
def test_a_step_moves_what_should_learn_and_nothing_else(checkpoints: dict[str, Path], adaptation: str) -> None:
    config = settings_of(checkpoints["qwen3"], adaptation=adaptation)
    features = training_set().train
    preparation = prepare(features, config)
    world, made = read_world(features, preparation), network(config)
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    karma_loss(made, sampler.draw(step_generator(0, 0)), config).backward()  # type: ignore[no-untyped-call]
    for name, value in made.backbone.named_parameters():
        moved = value.grad is not None and bool(value.grad.abs().sum() > 0)
        zero = "lora_A" in name  # its partner starts at zero, so that training starts from the model as it came
        assert moved == (value.requires_grad and not zero), name


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_merged_corrections_compute_what_they_did_apart(checkpoints: dict[str, Path], adaptation: str) -> None:
    made = network(settings_of(checkpoints["qwen3"], adaptation=adaptation, reconstruction_decoder="frozen")).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.normal_()
    ids = torch.tensor([[BOS, 20, 21, INT]])
    before = made.encode_history(ids, torch.tensor([4]))
    made.merge()
    assert torch.allclose(made.encode_history(ids, torch.tensor([4])), before, atol=1e-5)
    assert not [name for name in made.state_dict() if "lora" in name]


def test_training_again_gives_the_same_and_a_killed_run_resumes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    config = settings_of(checkpoints["smollm"], adaptation="lora", reconstruction_decoder="frozen")
    whole = train_karma(training_set(), config, seed=0)
    train_karma(training_set(), config, seed=0, checkpoint=tmp_path)
    resumed = train_karma(training_set(), config, seed=0, checkpoint=tmp_path)
    state = resumed.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.network.state_dict().items())
    (best,) = tmp_path.glob("*/training/best.safetensors")
    assert best.stat().st_size < 200_000
    stock = load_pretrained(str(checkpoints["smollm"])).get_decoder().layers[0].self_attn.q_proj.weight
    assert not torch.equal(whole.network.backbone.decoder.layers[0].self_attn.q_proj.weight, stock)


def test_gradient_checkpointing_changes_nothing_but_memory(checkpoints: dict[str, Path]) -> None:
    found = []
    for kept in (False, True):
        made = network(settings_of(checkpoints["qwen3"], gradient_checkpointing=kept, dropout=0.0)).train()
        made.read_history(torch.tensor([[BOS, 20, 21, INT]])).square().sum().backward()
        found.append(made.backbone.decoder.layers[0].self_attn.q_proj.weight.grad)
    assert torch.allclose(*found, atol=1e-6)


@pytest.fixture(scope="module")
def tokenizers(checkpoints: dict[str, Path]) -> dict[str, Tokenizer]:
    return {family: load_tokenizer(str(checkpoints[family])) for family in ("qwen3", "llama")}


def control_ids(directory: Path) -> set[int]:
    document = json.loads((directory / "tokenizer.json").read_text())
    return {entry["id"] + len(SPECIALS) for entry in document["added_tokens"]} | set(range(len(SPECIALS)))


hostile = st.lists(st.sampled_from(FORGERIES) | st.text(max_size=4), max_size=6).map("".join)


@given(hostile | st.lists(hostile, max_size=3).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_no_text_forges_a_control_token(
    checkpoints: dict[str, Path], tokenizers: dict[str, Tokenizer], text: str
) -> None:
    for family, tokenizer in tokenizers.items():
        tokens = set(encode(tokenizer, [text], limit=1000)[0].tolist())
        assert not tokens & control_ids(checkpoints[family])


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_not_even_where_whole_words_are_looked_up(tmp_path: Path, ignore_merges: bool) -> None:
    write_checkpoint(tmp_path, "qwen3")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"]["ignore_merges"] = ignore_merges
    document["pre_tokenizer"]["use_regex"] = False  # a text is one word then
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    guarded = load_tokenizer(str(tmp_path))
    for text in CONTROL:
        assert raw.encode(text).ids == [raw.token_to_id(text)], "the attack works on the tokenizer as it came"
        tokens = encode(guarded, [text], limit=100)[0]
        assert not set(tokens.tolist()) & control_ids(tmp_path)
        assert decode(guarded, tokens) == text


def test_ordinary_text_is_encoded_as_the_backbone_learned_it(checkpoints: dict[str, Path]) -> None:
    for family in ("qwen3", "llama"):
        raw = Tokenizer.from_file(str(checkpoints[family] / "tokenizer.json"))
        tokens = encode(load_tokenizer(str(checkpoints[family])), ["blue shirt 12, naïve 猫"], limit=100)[0]
        expected = raw.encode("blue shirt 12, naïve 猫", add_special_tokens=False).ids
        assert (tokens - len(SPECIALS)).tolist() == expected


def pickled_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def cut_short(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def layer_missing(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config["layer_types"] = ["full_attention"] * 3
    (directory / "config.json").write_text(json.dumps(config))


def other_shape(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def own_code(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": code}))
    (directory / "own.py").write_text("raise SystemExit('it ran')")


def not_a_language_model(directory: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=300, **sizes)).save_pretrained(directory)


def wordpiece(directory: Path) -> None:
    document = json.loads((directory / "tokenizer.json").read_text())
    document["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (directory / "tokenizer.json").write_text(json.dumps(document))


def larger_tokenizer(directory: Path) -> None:
    document = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary |= {f"extra {number}": len(vocabulary) + number for number in range(100)}
    (directory / "tokenizer.json").write_text(json.dumps(document))


def ids_with_a_gap(directory: Path) -> None:
    document = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] += 5000
    (directory / "tokenizer.json").write_text(json.dumps(document))


def not_finite(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def fewer_layers(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    one = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (directory / "config.json").write_text(json.dumps(config | one))


def tokenizer_of(text: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "tokenizer.json").write_text(text)

    return write


def described_by(**changed: object) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changed))

    return write


def not_utf8(directory: Path) -> None:
    (directory / "tokenizer.json").write_bytes(b"\xff\xfe{")


def merges_of_nothing(directory: Path) -> None:
    document = json.loads((directory / "tokenizer.json").read_text())
    document["model"]["merges"] = [["no such", "token"]]
    (directory / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda directory: (directory / "model.safetensors").unlink(), "safetensors.* found config.json"),
        (lambda directory: (directory / "config.json").unlink(), "expected config.json"),
        (lambda directory: (directory / "tokenizer.json").unlink(), "tokenizer.json"),
        (pickled_only, "pickled, which can run code"),
        (cut_short, "cannot be used"),
        (layer_missing, r"expected all weights, model.layers.2.* are missing"),
        (other_shape, "cannot be used"),
        (own_code, "no code of its own"),
        (not_a_language_model, "expected a causal language model, named ...ForCausalLM, got .*BertForMaskedLM"),
        (wordpiece, "expected a byte-pair tokenizer, got 'WordLevel'"),
        (not_finite, r"expected finite weights, got NaN or infinity in model.layers.1.mlp.up_proj.weight"),
        (fewer_layers, r"expected no weights but those that config.json describes, model.layers.1.* are more"),
        (described_by(hidden_size="big"), "cannot be used"),
        (described_by(num_hidden_layers=-1), "cannot be used"),
        (described_by(num_attention_heads=0), "cannot be used"),
        (described_by(quantization_config={"quant_method": "gptq", "bits": 4}), r"got quantised ones \(gptq\)"),
        (
            described_by(use_sliding_window=True, sliding_window=4, max_window_layers=0, layer_types=None),
            "expected layers that see all 58 positions, got a window of 4",
        ),
        (tokenizer_of(""), "expected tokenizer.json to be .*; JSONDecodeError"),
        (tokenizer_of("PK\3\4"), "expected tokenizer.json to be .*; JSONDecodeError"),
        (tokenizer_of("{}"), "expected tokenizer.json to be .*; KeyError: 'model'"),
        (tokenizer_of("[]"), "expected tokenizer.json to be "),
        (tokenizer_of('{"model": null}'), "expected tokenizer.json to be "),
        (tokenizer_of('{"model": {"type": "BPE"}}'), "expected tokenizer.json to be .*; KeyError: 'merges'"),
        (tokenizer_of('{"model": {"type": "BPE", "vocab": [], "merges": []}}'), "expected tokenizer.json to be "),
        (not_utf8, "expected tokenizer.json to be .*; UnicodeDecodeError"),
        (merges_of_nothing, "expected tokenizer.json to be .*no such"),
        (ids_with_a_gap, r"ids below its \d+ token embeddings, got id 5[0-9]{3}$"),
        (larger_tokenizer, "ids below its [0-9]+ token embeddings, got id 399"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    write_checkpoint(tmp_path, "qwen3")
    damage(tmp_path)
    with pytest.raises(ConfigurationError, match=said) as raised:
        network(settings_of(tmp_path))
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["./nope", "../nope/nope", "/nope/nope", "~/nope/nope", "models/qwen/nope", "attractor"]
)
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.karma.backbones.cached_file", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "attractor").write_text("a file, not a directory")
    for load in (load_tokenizer, load_pretrained):
        with pytest.raises(ConfigurationError, match=f"backbone '{name}'.*no such directory"):
            load(name)


def test_a_name_that_is_nowhere_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="'nobody/nothing' cannot be used"):
        load_pretrained("nobody/nothing")
    with pytest.raises(ConfigurationError, match="'nobody/nothing' cannot be used"):
        load_tokenizer("nobody/nothing")


def test_a_model_that_looks_ahead_is_refused(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    for layer in model.model.layers:
        monkeypatch.setattr(layer, "forward", looking_both_ways(layer.forward))
    nothing_odd: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: (model, nothing_odd))
    with pytest.raises(ConfigurationError, match="obeys an attention mask"):
        load_pretrained(str(checkpoints["qwen3"]))


def looking_both_ways(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def without_mask(*given: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> torch.Tensor:
        return forward(*given, attention_mask=torch.ones_like(attention_mask), **options)

    return without_mask


@pytest.mark.parametrize("modules", ["nope", "", "q_norm", "q_proj,nope", "q_proj,"])
def test_layers_that_lora_cannot_correct_are_named(checkpoints: dict[str, Path], modules: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lora_modules '{modules}'") as raised:
        network(settings_of(checkpoints["qwen3"], adaptation="lora", lora_modules=modules))
    assert "\n" not in str(raised.value)


def test_too_few_positions_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="room for 310 positions, got 256"):
        network(settings_of(checkpoints["qwen3"], sequence_tokens=300))


def test_other_weights_under_the_same_name_are_another_run(tmp_path: Path) -> None:
    config = settings_of(write_checkpoint(tmp_path, "qwen3"))
    before = fingerprint(config)
    write_checkpoint(tmp_path, "qwen2")
    assert fingerprint(config) != before
    assert fingerprint(karma_tiny()) == ""
    hub = replace(config, backbone="Qwen/Qwen3-0.6B", backbone_revision="abc")
    assert fingerprint(hub) == "Qwen/Qwen3-0.6B@abc"


@pytest.mark.parametrize(
    ("changed", "said"), [({"adaptation": "lora"}, "none is named"), ({"accumulation": 0}, "accumulation")]
)
def test_settings_that_mean_nothing_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(karma_tiny(), **changed)  # type: ignore[arg-type]
