"""Training KARMA: tokenizer, pre-training on texts, then the objectives on every `[INT]` of the histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import NothingToLearn
from features.files import sha256_of_json
from features.training_sets import TrainingSet
from models.karma import backbones, evaluation
from models.karma.batches import Batch, Sampler
from models.karma.compressed import Histories
from models.karma.config import KarmaConfig
from models.karma.losses import action_loss, false_negatives, log_expected_draws, picture_loss, text_loss
from models.karma.network import Karma
from models.karma.pretraining import BACKBONE, pretrain, texts_of
from models.karma.text import (
    PAD,
    Catalogue,
    History,
    Preparation,
    picture_width,
    read_catalogue,
    read_histories,
    train_tokenizer,
    vocabulary_size,
)
from models.training import Fit, LoopConfig, fit, require_device, step_generator


@dataclass(frozen=True)
class TrainedKarma:
    """A trained network, what prepares its inputs, and its held-out metrics."""

    network: Karma
    preparation: Preparation
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class World:
    """One date's features, prepared: what was known then."""

    catalogue: Catalogue
    categories: list[str]
    event_count: NDArray[np.int64]
    row_of: Mapping[str, int]
    histories: Mapping[str, History]


def train_karma(
    training_set: TrainingSet,
    config: KarmaConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    pretraining: Path | None = None,
) -> TrainedKarma:
    """Train on what was known at `train_end`, stop early on the validation window, measure on both windows.

    With `checkpoint`, a directory, a killed run resumes and ends with the weights of one that was not killed.
    Runs with one `pretraining`, the pre-training's checkpoint, start from the same weights: the first one makes it.
    What is measured is what is exported: low-rank corrections are merged first. With `history = "auto"` two runs are
    made, and the metrics say what was kept. Raises ConfigurationError if a backbone or the device cannot be used,
    NothingToLearn without two items or any event, TrainingDiverged where numbers are not finite any more.
    """
    require_device(config.device)
    if config.history == "auto":
        return _train_both(training_set, config, seed=seed, checkpoint=checkpoint)
    preparation = prepare(training_set.train, config)
    world = read_world(training_set.train, preparation)
    if len(world.catalogue) < 2:
        raise NothingToLearn(f"expected a catalogue of at least 2 items to tell apart, got {len(world.catalogue)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(preparation).to(config.device)
    run = None
    if checkpoint is not None:  # a run under other settings or data is another run
        run = (
            checkpoint
            / sha256_of_json([asdict(config), backbones.fingerprint(config), training_set.fingerprint, seed])[:12]
        )
    start = pretraining or (run and run / "pretraining")
    pretrain(network, texts_of(training_set.train, preparation), world.catalogue, config, seed=seed, checkpoint=start)
    network.freeze_decoder()
    fitted = _train(
        network, preparation, world, training_set.validation, seed=seed, checkpoint=run and run / "training"
    )
    network.eval().merge()
    metrics = _metrics(network, preparation, world, training_set, fitted)
    return TrainedKarma(network.cpu(), preparation, metrics)


def _train_both(training_set: TrainingSet, config: KarmaConfig, *, seed: int, checkpoint: Path | None) -> TrainedKarma:
    """Histories of words, and compressed: the faster, compressed ones wherever they lose little in validation."""
    words, compressed = (
        train_karma(training_set, replace(config, history=history), seed=seed, checkpoint=checkpoint)
        for history in ("tokens", "compressed")
    )
    hits = [run.metrics["validation"]["model_all_targets"]["HR@50"] for run in (words, compressed)]
    kept = compressed if hits[1] >= (1.0 - config.history_tolerance) * hits[0] else words
    chosen = {"kept": kept.preparation.config.history, "HR@50": dict(zip(("tokens", "compressed"), hits, strict=True))}
    return replace(kept, metrics={**kept.metrics, "history": chosen})


def prepare(features: Mapping[str, pa.Table], config: KarmaConfig) -> Preparation:
    """Tokenizer, id vocabulary and picture width, from what was known when training ends."""
    catalogue = features["item_catalog"]
    queries = [query for row in features["user_history"].column("queries").to_pylist() for query in row if query]
    texts = [text for text in catalogue.column("text").to_pylist() if text]
    width = picture_width(catalogue)
    ids = zip(catalogue.column("item_id").to_pylist(), catalogue.column("item_event_count").to_pylist(), strict=True)
    warm = [item for item, events in ids if config.id_embedding and events >= config.id_min_events]
    if config.backbone:
        tokenizer = backbones.load_tokenizer(config.backbone, revision=config.backbone_revision)
    else:
        tokenizer = train_tokenizer([*texts, *queries], vocabulary=config.vocabulary)
    return Preparation(
        config,
        tokenizer,
        {item: index for index, item in enumerate(sorted(warm), start=1)},
        width or 1,
        width is not None,
    )


def new_network(preparation: Preparation) -> Karma:
    """An untrained network for inputs so prepared; the weights come from torch's global generator."""
    return Karma(
        preparation.config,
        vocabulary=vocabulary_size(preparation.tokenizer),
        items=len(preparation.item_index),
        picture_width=preparation.picture_width,
    )


def read_world(features: Mapping[str, pa.Table], preparation: Preparation) -> World:
    """Prepare one date's `item_catalog` and `user_history`."""
    table = features["item_catalog"]
    catalogue = read_catalogue(table, preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    return World(
        catalogue,
        table.column("category").to_pylist(),
        table.column("item_event_count").to_numpy(),
        row_of,
        read_histories(features["user_history"], preparation, row_of),
    )


def karma_loss(network: Karma, batch: Batch, config: KarmaConfig) -> Tensor:
    """L = L_action + λ_gen L_gen + λ_rec L_rec + λ_picture L_picture; a term with λ = 0 costs nothing."""
    generated: Tensor | None = None
    # Compressed histories are made of candidates; otherwise these are read second, as they always were: the order of
    # reading is the order of dropout's draws, and so part of what a seed gives.
    items, soft = (None, None) if network.compressor is None else _read_candidates(network, batch)
    if config.lambda_generation > 0:
        at = batch.positions[batch.decoded]
        states, generated = network.read_with_segments(batch.input_ids, at, batch.generation_segments, soft)
    else:
        states = network.read_history(batch.input_ids, soft)
    interests = network.to_interest(states[batch.rows, batch.positions])
    loss = _action(network, batch, interests, _read_candidates(network, batch)[0] if items is None else items)
    if generated is not None:
        generation = text_loss(generated, network.vocabulary, batch.decoded_texts, padding=PAD)
        loss = loss + config.lambda_generation * generation
    decoded = interests[batch.decoded.flatten()]
    if config.lambda_reconstruction > 0:
        written = network.reconstruct(decoded, batch.reconstruction_segments.flatten(0, 1))
        wanted = batch.decoded_texts.flatten(0, 1)
        reconstruction = text_loss(written, network.decoding_vocabulary(), wanted, padding=PAD)
        loss = loss + config.lambda_reconstruction * reconstruction
    if config.lambda_picture > 0:
        painted = picture_loss(network.painter(decoded), batch.decoded_pictures, batch.decoded_has_picture)
        loss = loss + config.lambda_picture * painted
    return loss


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all its tensors on `device`."""

    def moved(value: Tensor | dict[str, Tensor] | None) -> Tensor | dict[str, Tensor] | None:
        if isinstance(value, dict):
            return {name: tensor.to(device) for name, tensor in value.items()}
        return None if value is None else value.to(device)

    return Batch(**{field.name: moved(getattr(batch, field.name)) for field in fields(batch)})  # type: ignore[arg-type]


def faded(config: KarmaConfig, step: int) -> KarmaConfig:
    """The configuration with the λs of a step: they fall linearly to `regulariser_decay` of themselves."""
    share = 1.0 - (1.0 - config.regulariser_decay) * step / max(1, config.steps - 1)
    if share == 1.0:
        return config
    return replace(
        config,
        lambda_generation=share * config.lambda_generation,
        lambda_reconstruction=share * config.lambda_reconstruction,
        lambda_picture=share * config.lambda_picture,
    )


def _read_candidates(network: Karma, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Candidates' embeddings [C, d], and the soft tokens that the batch's histories name if they are compressed."""
    inputs = dict(batch.candidate_inputs)
    id_index = inputs.pop("id_index")
    states = network.read_items(**inputs)
    items = network.to_items(states, id_index)
    if network.compressor is None:
        return items, None
    return items, network.soft_table(states, batch.queries)


def _action(network: Karma, batch: Batch, interests: Tensor, items: Tensor) -> Tensor:
    masked = false_negatives(batch.candidates, batch.rows, batch.owned, batch.targets)
    log_q = log_expected_draws(batch.shares, batch.draws)
    losses = action_loss(interests, items, batch.targets, scale=network.scale, log_q=log_q, masked=masked)
    return (losses * batch.learned).sum() / batch.learned.sum().clamp(min=1)


def _train(
    network: Karma,
    preparation: Preparation,
    world: World,
    labels: pa.Table,
    *,
    seed: int,
    checkpoint: Path | None,
) -> Fit:
    config = preparation.config
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    watched, of_user, sequences = _watched(labels, world, preparation, seed=seed)

    def objective(step: int, generator: torch.Generator) -> Tensor:
        return karma_loss(network, on_device(sampler.draw(generator), network.device), faded(config, step))

    def validate() -> float:
        items = evaluation.encode_catalogue(network, world.catalogue)
        users = evaluation.encode_users(network, sequences)
        return evaluation.smooth_gain(evaluation.model_ranks(users[of_user], items, watched))

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        final_share=config.final_share,
        weight_decay=config.weight_decay,
        validate_every=config.validate_every,
        patience=config.patience,
        accumulate=config.accumulation,
        gentle=BACKBONE,
        gentle_share=config.backbone_learning_share,
    )
    return fit(network, objective, validate, config=loop, seed=seed, checkpoint=checkpoint, label="karma training")


def _watched(
    labels: pa.Table, world: World, preparation: Preparation, *, seed: int
) -> tuple[evaluation.Targets, NDArray[np.int64], Histories]:
    """What validation looks at: targets of some users with a history, the user of each, and every user's sequence.

    Several targets a user: where users are few, one each would leave early stopping to chance.
    """
    config = preparation.config
    targets = evaluation.held_out_targets(
        labels, world.histories, world.row_of, preparation, per_user=config.targets_per_user
    )
    known = sorted({user for user, past in zip(targets.users, targets.histories, strict=True) if len(past.items)})
    order = torch.randperm(len(known), generator=step_generator(seed, -1))[: config.validation_users]
    chosen = {known[place] for place in order.tolist()}
    watched = targets.take([row for row, user in enumerate(targets.users) if user in chosen])
    once, _, of_user = watched.by_user()
    return watched, of_user, evaluation.user_sequences(once, world.catalogue, limit=config.history_limit)


def _metrics(
    network: Karma, preparation: Preparation, world: World, training_set: TrainingSet, fitted: Fit
) -> dict[str, Any]:
    recent, per_user = read_world(training_set.recent, preparation), preparation.config.targets_per_user
    windows = {"validation": (world, training_set.validation), "test": (recent, training_set.test)}
    metrics: dict[str, Any] = {"steps": fitted.steps, "best_step": fitted.best_step}
    with torch.no_grad():
        for window, (known, labels) in windows.items():
            targets = evaluation.held_out_targets(labels, known.histories, known.row_of, preparation, per_user=per_user)
            metrics[window] = evaluation.report(network, preparation, known.catalogue, targets, known.event_count)
    return metrics
