"""The network's visibility rules: what z, a generated text and a reconstructed text can and cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.karma.config import KarmaConfig, karma_tiny
from models.karma.network import MAX_SCALE, Karma, segmented
from models.karma.text import BOS, GEN, INT, ITEM, REC, padded

VOCABULARY, ITEMS, WIDTH = 40, 5, 3


def network(config: KarmaConfig | None = None, seed: int = 0) -> Karma:
    torch.manual_seed(seed)
    made = Karma(config or karma_tiny(), vocabulary=VOCABULARY, items=ITEMS, picture_width=WIDTH)
    return made.eval()


@pytest.fixture(scope="module")
def karma() -> Karma:
    return network()


def random_tokens(count: int, seed: int) -> Tensor:
    return torch.randint(8, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def item_inputs(count: int = 4) -> dict[str, Tensor]:
    ids, lengths = padded([np.append(random_tokens(n, n).numpy(), ITEM) for n in range(count)])
    return {
        "token_ids": torch.from_numpy(ids),
        "lengths": torch.from_numpy(lengths),
        "picture": torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1)),
        "has_picture": torch.tensor([n % 2 == 0 for n in range(count)]),
        "id_index": torch.arange(count),
    }


@pytest.mark.parametrize("length", [2, 7, 30])
def test_padding_and_company_do_not_change_an_interest(karma: Karma, length: int) -> None:
    history = torch.cat([torch.tensor([BOS]), random_tokens(length - 2, 0), torch.tensor([INT])])
    alone = karma.encode_history(history[None], torch.tensor([length]))
    block = torch.zeros(3, length + 5, dtype=torch.long)
    block[0, :2] = torch.tensor([BOS, INT])
    block[1, :length] = history
    block[2] = random_tokens(length + 5, 1)
    beside = karma.encode_history(block, torch.tensor([2, length, length + 5]))
    assert torch.allclose(alone[0], beside[1], atol=1e-6)
    assert torch.allclose(beside.norm(dim=1), torch.ones(3), atol=1e-5)


def test_padding_and_company_do_not_change_an_item(karma: Karma) -> None:
    inputs = item_inputs()
    together = karma.encode_items(**inputs)
    assert torch.allclose(together.norm(dim=1), torch.ones(4), atol=1e-5)
    for row in range(4):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        one["token_ids"] = one["token_ids"][:, : int(one["lengths"][0])]
        assert torch.allclose(karma.encode_items(**one)[0], together[row], atol=1e-6)


def test_an_absent_picture_is_not_looked_at_and_a_present_one_is(karma: Karma) -> None:
    inputs = item_inputs()
    before = karma.encode_items(**inputs)
    after = karma.encode_items(**{**inputs, "picture": inputs["picture"] + 1})
    changed = (before - after).abs().amax(dim=1) > 1e-6
    assert changed.tolist() == inputs["has_picture"].tolist()


def test_ids_start_at_zero_and_no_id_stays_there() -> None:
    made, inputs = network(), item_inputs()
    cold = made.encode_items(**{**inputs, "id_index": torch.zeros(4, dtype=torch.long)})
    assert torch.equal(made.encode_items(**inputs), cold)
    made.encode_items(**inputs).sum().backward()
    gradient = made.identity.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


def test_the_scale_is_clamped() -> None:
    made = network()
    torch.nn.init.constant_(made.log_scale, 50.0)
    assert float(made.scale.detach()) == MAX_SCALE


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_segments_see_their_history_and_themselves(length: int, count: int, width: int, data: st.DataObject) -> None:
    at = [[data.draw(st.integers(0, length - 1)) for _ in range(count)] for _ in range(2)]
    mask, positions = segmented(length, torch.tensor(at), width)
    size = length + count * width
    assert mask.shape == (2, 1, size, size)
    for row in range(2):
        for q in range(size):
            segment = (q - length) // width
            step = (q - length) % width
            assert int(positions[row, q]) == (q if q < length else at[row][segment] + 1 + step)
            for k in range(size):
                if q < length:
                    visible = k <= q
                elif k < length:
                    visible = k <= at[row][segment]
                else:
                    visible = (k - length) // width == segment and (k - length) % width <= step
                assert bool(mask[row, 0, q, k]) == visible


def test_a_segment_reads_as_if_it_followed_its_history(karma: Karma) -> None:
    history, text = random_tokens(9, 0), torch.cat([torch.tensor([GEN]), random_tokens(3, 1)])
    at, segments = torch.tensor([[4, 8]]), torch.stack([text, text])[None]
    states, written = karma.read_with_segments(history[None], at, segments)
    for number, end in enumerate((5, 9)):
        continued = karma.read_history(torch.cat([history[:end], text])[None])
        assert torch.allclose(written[0, number], continued[0, end:], atol=1e-5)
    assert torch.allclose(states, karma.read_history(history[None]), atol=1e-5)


def test_nothing_sees_a_segment(karma: Karma) -> None:
    history, at = random_tokens(9, 0)[None], torch.tensor([[4, 8]])
    segments = torch.stack([random_tokens(4, seed) for seed in (1, 2)])[None]
    states, written = karma.read_with_segments(history, at, segments)
    other = segments.clone()
    other[0, 0] = random_tokens(4, 3)
    states_after, written_after = karma.read_with_segments(history, at, other)
    assert torch.equal(states, states_after)
    assert torch.equal(written[0, 1], written_after[0, 1])
    assert not torch.allclose(written[0, 0], written_after[0, 0])


@pytest.mark.parametrize("decoder", ["shared", "frozen"])
def test_reconstruction_depends_on_z_and_on_earlier_text_alone(decoder: str) -> None:
    made = network(replace(karma_tiny(), reconstruction_decoder=decoder))  # type: ignore[arg-type]
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text = torch.stack([torch.cat([torch.tensor([REC]), random_tokens(3, seed)]) for seed in (1, 2)])
    written = made.reconstruct(z, text)
    assert written.shape == (2, 4, 16)
    (gradient,) = torch.autograd.grad(written[0].sum(), z)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0
    changed = text.clone()
    changed[0, 3] = 9
    assert torch.allclose(made.reconstruct(z, changed)[0, :3], written[0, :3], atol=1e-6)


def test_a_frozen_decoder_is_a_copy_that_does_not_learn() -> None:
    made = network(replace(karma_tiny(), reconstruction_decoder="frozen"))
    with torch.no_grad():
        made.vocabulary.add_(1.0)
    assert not torch.equal(made.decoding_vocabulary(), made.vocabulary)
    made.freeze_decoder()
    assert torch.equal(made.decoding_vocabulary(), made.vocabulary)
    made.reconstruct(torch.ones(1, 8), torch.tensor([[REC, 9]])).sum().backward()
    assert made.decoder is not None
    assert all(parameter.grad is None for parameter in made.decoder.parameters())
    assert made.backbone.embed_tokens.weight.grad is None
    assert made.soft.weight.grad is not None


def test_half_precision_is_near_in_training_and_absent_from_what_is_measured() -> None:
    whole = network(replace(karma_tiny(), dropout=0.0))
    half = network(replace(karma_tiny(), dropout=0.0, precision="bfloat16"))
    history = random_tokens(12, 0)[None]
    assert torch.equal(whole.read_history(history), half.read_history(history))
    exact, near = whole.train().read_history(history), half.train().read_history(history)
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert torch.allclose(exact, near, atol=0.1)
    near.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = half.backbone.layers[0].self_attn.q_proj.weight.grad
    assert gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden", 30),
        ("hidden", 0),
        ("heads", 0),
        ("layers", 0),
        ("embedding", 0),
        ("sequence_tokens", 12),
        ("query_tokens", 0),
        ("decoded_positions", 0),
        ("targets_per_user", 0),
        ("validate_every", 0),
        ("pretraining_batch", 0),
        ("popularity_negatives", -1),
        ("steps", -1),
        ("compression_steps", -5),
        ("lora_rank", 0),
        ("dropout", 1.5),
        ("lambda_generation", -1.0),
        ("lambda_generation", float("nan")),
        ("learning_rate", -1.0),
        ("pretraining_learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("batch", 1),
        ("backbone", 300 * "n"),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=setting):
        replace(karma_tiny(), **{setting: value})  # type: ignore[arg-type]
