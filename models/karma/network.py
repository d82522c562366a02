"""KARMA's network: one causal language model that reads histories, items and, while it trains, writes them.

Shapes: B rows, S tokens, H hidden width, d embedding width, V vocabulary, N positions, T tokens of a decoded text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.karma.backbones import PretrainedLanguageModel, decoder_of, language_model, output_layer, special_embeddings
from models.karma.compressed import FIRST_SOFT
from models.karma.config import KarmaConfig
from models.karma.last_layer import is_known, states_at
from models.karma.parts import WHOLE, Part, in_order, parts_by_length
from models.karma.text import PAD

MAX_SCALE = 100.0
"""Bound of the learned inverse temperature, as in CLIP: beyond it training diverges."""


class Karma(nn.Module):
    """The language model, the two read-outs that the night needs, and the decoder that only training needs."""

    backbone: Any  # a decoder of transformers, or `PretrainedLanguageModel`: called alike
    decoder: Any  # likewise, or None

    def __init__(self, config: KarmaConfig, *, vocabulary: int, items: int, picture_width: int) -> None:
        """`items` counts those with an id embedding; the weights come from torch's global generator.

        Raises ConfigurationError if a pre-trained backbone cannot be used.
        """
        super().__init__()
        self.backbone = language_model(config, vocabulary=vocabulary)
        self.width: int = self.backbone.config.hidden_size  # H
        self.halved = config.precision == "bfloat16"
        self.history_limit = config.history_limit  # tokens
        self.dropout = nn.Dropout(config.dropout)
        # A language model's states share one large direction. Centred and scaled, they contrast from the first step;
        # without this, all vectors fall together and the contrast needs hundreds of steps to part them.
        self.interest, self.item = _read_out(self.width, config.embedding), _read_out(self.width, config.embedding)
        self.picture = nn.Linear(picture_width, self.width)
        self.no_picture = nn.Parameter(torch.randn(self.width) * 0.02)
        self.identity = nn.Embedding(items + 1, config.embedding, padding_idx=0)
        nn.init.zeros_(self.identity.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.compressor = _read_out(self.width, self.width) if config.soft_width else None
        self.soft_width = config.soft_width  # K of an item in a compressed history, 0 where histories are words
        self.read_outs = max(1, config.soft_width)
        self.soft = nn.Linear(config.embedding, config.soft_tokens * self.width)  # P: decoding only
        self.painter = nn.Linear(config.embedding, picture_width)  # decoding only
        self.decoder = copy.deepcopy(self.backbone) if config.reconstruction_decoder == "frozen" else None
        self.freeze_decoder()

    def freeze_decoder(self) -> None:
        """Make the decoder a frozen copy of the language model as it is now; nothing where the two are one."""
        if self.decoder is not None:
            self.decoder.load_state_dict(self.backbone.state_dict())
            self.decoder.requires_grad_(False)

    def merge(self) -> None:
        """Add what low-rank adaptation learned to the weights of the language model; nothing where there is none."""
        for model in (self.backbone, self.decoder):
            if isinstance(model, PretrainedLanguageModel):
                model.merge()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most `MAX_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    @property
    def vocabulary(self) -> Tensor:
        """[V, H]: output layer of the language model, which the built-in one ties to its token embeddings."""
        return output_layer(self.backbone)

    def read(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """States [B, S, H]; `mask` [B or 1, 1, S, S] is True where a row may look at a column."""
        return self._read(self.backbone, self.dropout(embeddings), mask, positions)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token embeddings [..., H]."""
        embedded: Tensor = self.backbone.embed_tokens(token_ids)
        return embedded

    def to_interest(self, states: Tensor) -> Tensor:
        """z = l2norm(W_z centre(h)), [N, d] of states [N, H]."""
        return functional.normalize(self.interest(states), dim=-1)

    @property
    def marks(self) -> Tensor:
        """[special tokens, H]: all that a compressed history needs of the token embeddings."""
        return special_embeddings(self.backbone)

    def embed_history(self, input_ids: Tensor, soft: Tensor | None = None, marks: Tensor | None = None) -> Tensor:
        """Embeddings [B, S, H] of histories: of tokens, or with `soft` [R, H] of marks and rows of it.

        In a compressed history `FIRST_SOFT` + r is row r; `marks` stands in for the network's own, see `marks`.
        """
        if soft is None:
            return self.embed(input_ids)
        known = functional.embedding(input_ids.clamp(max=FIRST_SOFT - 1), self.marks if marks is None else marks)
        return torch.where(input_ids[..., None] < FIRST_SOFT, known, soft[(input_ids - FIRST_SOFT).clamp(min=0)])

    def encode_history(
        self, input_ids: Tensor, lengths: Tensor, soft: Tensor | None = None, marks: Tensor | None = None
    ) -> Tensor:
        """Interest z [B, d] at the last token of each history, its `[INT]`; `soft`, `marks` as in `embed_history`."""
        return self.to_interest(self.read_at(self.embed_history(input_ids, soft, marks), lengths[:, None] - 1)[:, 0])

    def encode_items(
        self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor, id_index: Tensor
    ) -> Tensor:
        """Item embedding e = l2norm(l2norm(W_e adapter(centre(x))) + id) [B, d], read at `[ITEM]`, the last token.

        The content has length 1 before the id is added, so that zero-initialised ids can come to matter.
        """
        return self.to_items(self.read_items(token_ids, lengths, picture, has_picture), id_index)

    def read_items(self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor) -> Tensor:
        """States [B, K, H] at the K tokens that close each text; also of queries, which have no picture."""
        parts = self._parts(lengths, beside=1)
        read = [
            self._read_items(token_ids[rows, :width], lengths[rows], picture[rows], has_picture[rows])
            for rows, width in parts
        ]
        return in_order(read, parts)

    def _read_items(self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor) -> Tensor:
        seen = torch.where(has_picture[:, None], self.picture(picture), self.no_picture)
        embeddings = torch.cat([seen[:, None], self.embed(token_ids)], dim=1)  # the picture is token 0
        closing = torch.arange(1 - self.read_outs, 1, device=lengths.device)
        return self.read_at(embeddings, lengths[:, None] + closing)

    def to_items(self, states: Tensor, id_index: Tensor) -> Tensor:
        """Item embeddings [B, d] of states [B, K, H]."""
        content = functional.normalize(self.item(states[:, -1]), dim=-1)
        return functional.normalize(content + self.identity(id_index), dim=-1)

    def to_soft(self, states: Tensor) -> Tensor:
        """Soft tokens [B, K, H] of states [B, K, H]: an item, or a query, as a compressed history names it."""
        assert self.compressor is not None, "made with history = tokens"
        soft: Tensor = self.compressor(states.flatten(0, 1))
        return soft.reshape(states.shape)

    def soft_table(self, items: Tensor, queries: dict[str, Tensor] | None) -> Tensor:
        """Soft tokens [R, H] of items, given as states [B, K, H], then of queries, given as inputs of `read_items`.

        A last row of zeros, which nothing names, keeps a table without items and queries from being empty.
        """
        if queries is not None:
            states = self.read_items(**{name: value for name, value in queries.items() if name != "id_index"})
            items = torch.cat([items, states])  # centred together
        return functional.pad(self.to_soft(items).flatten(0, 1), (0, 0, 0, 1))

    def read_at(self, embeddings: Tensor, at: Tensor) -> Tensor:
        """States [B, K, H] at the positions `at` [B, K] of plain left-to-right reading."""
        mask, positions = causal(embeddings.shape[1], embeddings)
        decoder = decoder_of(self.backbone)
        if not self.training and is_known(decoder):
            return states_at(decoder, embeddings, mask, positions, at)
        states = self.read(embeddings, mask, positions.expand(embeddings.shape[0], -1))
        return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))

    def read_history(self, input_ids: Tensor, soft: Tensor | None = None) -> Tensor:
        """States [B, S, H] of whole histories; every `[INT]` among them is a training position.

        While it trains, states at padding may be zeros.
        """
        length, parts = input_ids.shape[1], self._parts((input_ids != PAD).sum(dim=1))
        read = [self._read_history(input_ids[rows, :width], soft) for rows, width in parts]
        return in_order([_widened(states, length) for states in read], parts)

    def _read_history(self, input_ids: Tensor, soft: Tensor | None) -> Tensor:
        return self.read(self.embed_history(input_ids, soft), *causal(input_ids.shape[1], input_ids))

    def read_with_segments(
        self, input_ids: Tensor, at: Tensor, segments: Tensor, soft: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States of histories [B, S, H], and of G text segments a history [B, G, T, H] that nothing else can see.

        Segment g of `segments` [B, G, T] continues its history after position `at` [B, G]: it sees the history up to
        there, and itself. While it trains, states at a history's padding may be zeros.
        """
        beside = segments.shape[1] * segments.shape[2]
        length, parts = input_ids.shape[1], self._parts((input_ids != PAD).sum(dim=1), beside=beside)
        read = [
            self._read_with_segments(input_ids[rows, :width], at[rows], segments[rows], soft) for rows, width in parts
        ]
        states = in_order([_widened(states, length) for states, _ in read], parts)
        return states, in_order([written for _, written in read], parts)

    def _read_with_segments(
        self, input_ids: Tensor, at: Tensor, segments: Tensor, soft: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = input_ids.shape[1]
        embeddings = torch.cat([self.embed_history(input_ids, soft), self.embed(segments.flatten(1))], dim=1)
        states = self.read(embeddings, *segmented(length, at, segments.shape[2]))
        return states[:, :length], states[:, length:].reshape(*segments.shape, -1)

    def reconstruct(self, interests: Tensor, segments: Tensor) -> Tensor:
        """States [N, T, H] of `segments` [N, T], conditioned on P(z) of `interests` [N, d] and on nothing else."""
        decoder = self.backbone if self.decoder is None else self.decoder
        soft = self.soft(interests).reshape(len(interests), -1, self.width)
        embeddings = torch.cat([soft, decoder.embed_tokens(segments)], dim=1)
        states = self._read(decoder, embeddings, *causal(embeddings.shape[1], embeddings))
        return states[:, soft.shape[1] :]

    def expand(self, soft: Tensor, segments: Tensor) -> Tensor:
        """States [N, T, H] of `segments` [N, T] read after soft tokens [N, K, H], which are all that they are told.

        While it trains, states at padding may be zeros.
        """
        length, parts = segments.shape[1], self._parts((segments != PAD).sum(dim=1), beside=soft.shape[1])
        read = [self._expand(soft[rows], segments[rows, :width]) for rows, width in parts]
        return in_order([_widened(states, length) for states in read], parts)

    def _expand(self, soft: Tensor, segments: Tensor) -> Tensor:
        embeddings = torch.cat([soft, self.embed(segments)], dim=1)
        states = self.read(embeddings, *causal(embeddings.shape[1], embeddings))
        return states[:, soft.shape[1] :]

    def decoding_vocabulary(self) -> Tensor:
        """[V, H]: output layer of the model that `reconstruct` uses."""
        return output_layer(self.backbone if self.decoder is None else self.decoder)

    def _parts(self, lengths: Tensor, *, beside: int = 0) -> Sequence[Part]:
        """A batch in parts where it trains on a CPU; what is measured or exported, or on a GPU, is read at once."""
        if self.training and self.device.type == "cpu":
            return parts_by_length(lengths, beside=beside)
        return [WHOLE]

    def _read(self, model: nn.Module, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        # A mask of four axes is taken as it is, by every family: the library builds none of its own. Half precision is
        # for training's products alone: losses and read-outs stay in float32, and so does all that is measured.
        low = self.halved and self.training
        with torch.autocast(embeddings.device.type, torch.bfloat16) if low else nullcontext():
            output = model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions)
        states: Tensor = output.last_hidden_state
        return states.float()


def causal(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mask [1, 1, S, S] and positions [1, S] of plain left-to-right reading, on the device of `like`."""
    positions = torch.arange(length, device=like.device)
    return (positions[:, None] >= positions[None, :])[None, None], positions[None]


def segmented(length: int, at: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Mask [B, 1, S', S'] and positions [B, S'] of histories of `length` followed by segments of `width`.

    S' = length + G * width. Segment g looks back at the history up to `at` [B, G] and at itself, and counts its
    positions from `at` + 1; the history, which comes first, never sees a segment.
    """
    rows, count = at.shape
    step = torch.arange(length + count * width, device=at.device)
    segment = torch.where(step < length, -1, (step - length) // width)  # -1: history
    start = at.repeat_interleave(width, dim=1)  # [B, G * width]: where each segment token's history ends
    within = torch.arange(width, device=at.device).repeat(count)
    history = torch.arange(length, device=at.device)
    positions = torch.cat([history.expand(rows, length), start + 1 + within], dim=1)
    last_visible = torch.cat([history.expand(rows, length), start], dim=1)
    in_history = (segment == -1)[None, None, :] & (step[None, None, :] <= last_visible[:, :, None])
    in_segment = (segment[:, None] == segment[None, :]) & (segment >= 0)[None, :] & (step[:, None] >= step[None, :])
    return (in_history | in_segment[None])[:, None], positions


def _widened(states: Tensor, length: int) -> Tensor:
    """States [B, S, H] with zeros up to `length`."""
    return functional.pad(states, (0, 0, 0, length - states.shape[1]))


def _read_out(width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(width, affine=False),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, embedding),
    )
