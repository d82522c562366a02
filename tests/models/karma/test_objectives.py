"""What each objective can see: never the future, never the target beyond teacher forcing; reconstruction, z alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from models.karma.batches import Batch, Sampler
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.losses import action_loss, false_negatives, log_expected_draws, text_loss
from models.karma.network import Karma
from models.karma.text import GEN, PAD, REC, vocabulary_size
from models.karma.training import faded, karma_loss, prepare, read_world
from models.training import step_generator
from tests.karma_world import training_set

CONFIG = replace(karma_tiny(), dropout=0.0)


@dataclass(frozen=True)
class Step:
    """One batch read by a network in evaluation mode: while training, read-outs are also centred over the batch."""

    network: Karma
    batch: Batch
    events: Tensor  # [B, S, H]: embeddings of the histories, for gradients
    interests: Tensor  # [N, d]
    generated: Tensor  # [B, G, T, H]


@pytest.fixture(scope="module")
def step() -> Step:
    features = training_set().train
    preparation = prepare(features, CONFIG)
    world = read_world(features, preparation)
    torch.manual_seed(0)
    vocabulary = vocabulary_size(preparation.tokenizer)
    network = Karma(CONFIG, vocabulary=vocabulary, items=len(preparation.item_index), picture_width=3).eval()
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, CONFIG)
    batch = sampler.draw(step_generator(0, 0))
    events = network.embed(batch.input_ids).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "embed_history", lambda *_: events)
        at = batch.positions[batch.decoded]
        states, generated = network.read_with_segments(batch.input_ids, at, batch.generation_segments)
    return Step(network, batch, events, network.to_interest(states[batch.rows, batch.positions]), generated)


def sees(step: Step, loss: Tensor) -> Tensor:
    """[B, S]: whether a loss depends on the embedding at each place of each history."""
    (gradient,) = torch.autograd.grad(loss, step.events, retain_graph=True)
    return gradient.abs().sum(dim=-1) > 0


def past_of(step: Step, position: int) -> Tensor:
    """[B, S]: the places of one position's own history up to its `[INT]`."""
    places = torch.zeros(step.events.shape[:2], dtype=torch.bool)
    places[step.batch.rows[position], : int(step.batch.positions[position]) + 1] = True
    return places


def test_there_is_a_future_to_see(step: Step) -> None:
    lengths = (step.batch.input_ids != PAD).sum(dim=1)
    assert (step.batch.positions + 1 < lengths[step.batch.rows]).any()


def test_action_sees_its_own_past_alone(step: Step) -> None:
    batch, network = step.batch, step.network
    losses = action_loss(
        step.interests,
        network.encode_items(**batch.candidate_inputs),
        batch.targets,
        scale=network.scale,
        log_q=log_expected_draws(batch.shares, batch.draws),
        masked=false_negatives(batch.candidates, batch.rows, batch.owned, batch.targets),
    )
    for position, loss in enumerate(losses):
        assert torch.equal(sees(step, loss), past_of(step, position))


def test_generation_sees_its_own_past_alone(step: Step) -> None:
    batch = step.batch
    for row, positions in enumerate(batch.decoded.tolist()):
        for segment, position in enumerate(positions):
            wanted = batch.decoded_texts[row, segment]
            loss = text_loss(step.generated[row, segment], step.network.vocabulary, wanted, padding=PAD)
            assert torch.equal(sees(step, loss), past_of(step, position))


def test_reconstruction_sees_its_own_past_through_z_alone(step: Step) -> None:
    batch, network = step.batch, step.network
    for row, positions in enumerate(batch.decoded.tolist()):
        for segment, position in enumerate(positions):
            given, wanted = batch.reconstruction_segments[row, segment], batch.decoded_texts[row, segment]
            z = step.interests[position][None]
            loss = text_loss(network.reconstruct(z, given[None])[0], network.vocabulary, wanted, padding=PAD)
            assert torch.equal(sees(step, loss), past_of(step, position))
            (through_z,) = torch.autograd.grad(loss, z, retain_graph=True)
            (whole,) = torch.autograd.grad(loss, step.events, retain_graph=True)
            (by_z,) = torch.autograd.grad(z, step.events, through_z, retain_graph=True)
            assert torch.equal(whole, by_z), "a path from the history to the decoder that does not go through z"


def test_the_decoder_does_not_move_with_the_history_while_z_is_held(step: Step) -> None:
    config = replace(CONFIG, lambda_generation=0.0, lambda_reconstruction=1.0)
    decoded: list[Tensor] = []

    def written(batch: Batch) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step.network, "to_interest", lambda states: step.interests.detach())
            real = step.network.reconstruct
            patch.setattr(step.network, "reconstruct", lambda *given: decoded.append(real(*given)) or decoded[-1])
            karma_loss(step.network, batch, config)
        return decoded[-1]

    other = torch.where(step.batch.input_ids > REC, step.batch.input_ids.flip(0), step.batch.input_ids)
    assert not torch.equal(step.network.read_history(other), step.network.read_history(step.batch.input_ids))
    assert torch.equal(written(replace(step.batch, input_ids=other)), written(step.batch))


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_a_text_is_written_left_to_right(step: Step, changed: int) -> None:
    batch, network = step.batch, step.network

    def generated(text: Tensor) -> Tensor:
        return network.read_with_segments(batch.input_ids, batch.positions[batch.decoded], text)[1]

    def reconstructed(text: Tensor) -> Tensor:
        written = network.reconstruct(step.interests[batch.decoded.flatten()], text.flatten(0, 1))
        return written.reshape(*text.shape, -1)

    for segments, read in (
        (batch.generation_segments, generated),
        (batch.reconstruction_segments, reconstructed),
    ):
        other = segments.clone()
        other[..., changed] += 1
        before, after = read(segments), read(other)
        assert torch.allclose(before[..., :changed, :], after[..., :changed, :], atol=1e-6)
        assert not torch.allclose(before[..., changed, :], after[..., changed, :], atol=1e-4)


def test_a_text_is_taught_one_token_ahead(step: Step) -> None:
    batch = step.batch
    for segments, opening in ((batch.generation_segments, GEN), (batch.reconstruction_segments, REC)):
        assert (segments[..., 0] == opening).all()
        for given, wanted in zip(segments.flatten(0, 1), batch.decoded_texts.flatten(0, 1), strict=True):
            text = given[1:][given[1:] != PAD].tolist()
            assert wanted.tolist()[: len(text)] == text


def test_regularisers_fade_linearly() -> None:
    config = replace(CONFIG, steps=11, lambda_generation=0.4, lambda_picture=0.2, regulariser_decay=0.5)

    def weights(step: int) -> list[float]:
        now: KarmaConfig = faded(config, step)
        return [now.lambda_generation, now.lambda_reconstruction, now.lambda_picture]

    assert weights(0) == pytest.approx([0.4, 0.3, 0.2])
    assert weights(5) == pytest.approx([0.3, 0.225, 0.15])
    assert weights(10) == pytest.approx([0.2, 0.15, 0.1])
    assert faded(CONFIG, 7) is CONFIG, "the default changes nothing"
