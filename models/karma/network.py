"""KARMA's network: one small causal language model that reads histories, items and, while it trains, writes them.

Shapes: B rows, S tokens, H hidden width, d embedding width, V vocabulary, N positions, T tokens of a decoded text.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

from models.karma.compressed import FIRST_SOFT
from models.karma.config import KarmaConfig
from models.karma.text import BOS, EOS, PAD

MAX_SCALE = 100.0
"""Bound of the learned inverse temperature, as in CLIP: beyond it training diverges."""


class Karma(nn.Module):
    """The language model, the two read-outs that the night needs, and the decoder that only training needs."""

    def __init__(self, config: KarmaConfig, *, vocabulary: int, items: int, picture_width: int) -> None:
        """`items` counts those with an id embedding; the weights come from torch's global generator."""
        super().__init__()
        self.backbone = Qwen3Model(_language_model(config, vocabulary))
        self.dropout = nn.Dropout(config.dropout)
        # A language model's states share one large direction. Centred and scaled, they contrast from the first step;
        # without this, all vectors fall together and the contrast needs hundreds of steps to part them.
        self.interest, self.item = _read_out(config), _read_out(config)
        self.picture = nn.Linear(picture_width, config.hidden)
        self.no_picture = nn.Parameter(torch.randn(config.hidden) * 0.02)
        self.identity = nn.Embedding(items + 1, config.embedding, padding_idx=0)
        nn.init.zeros_(self.identity.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        # A read-out state as a token of a compressed history.
        self.compressor = nn.Linear(config.hidden, config.hidden) if config.soft_width else None
        self.read_outs = max(1, config.soft_width)
        self.soft = nn.Linear(config.embedding, config.soft_tokens * config.hidden)  # P: decoding only
        self.painter = nn.Linear(config.embedding, picture_width)  # decoding only
        self.decoder = copy.deepcopy(self.backbone) if config.reconstruction_decoder == "frozen" else None
        self.freeze_decoder()

    def freeze_decoder(self) -> None:
        """Make the decoder a frozen copy of the language model as it is now; nothing where the two are one."""
        if self.decoder is not None:
            self.decoder.load_state_dict(self.backbone.state_dict())
            self.decoder.requires_grad_(False)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most `MAX_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    @property
    def vocabulary(self) -> Tensor:
        """[V, H]: token embeddings, and by tying the output layer of the language model."""
        weight: Tensor = self.backbone.embed_tokens.weight
        return weight

    def read(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """States [B, S, H]; `mask` [B or 1, 1, S, S] is True where a row may look at a column."""
        return _read(self.backbone, self.dropout(embeddings), mask, positions)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token embeddings [..., H]."""
        embedded: Tensor = self.backbone.embed_tokens(token_ids)
        return embedded

    def to_interest(self, states: Tensor) -> Tensor:
        """z = l2norm(W_z centre(h)), [N, d] of states [N, H]."""
        return functional.normalize(self.interest(states), dim=-1)

    def embed_history(self, input_ids: Tensor, soft: Tensor | None = None) -> Tensor:
        """Embeddings [B, S, H] of histories: of tokens, or with `soft` [R, H] of marks and rows of it.

        In a compressed history `FIRST_SOFT` + r is row r.
        """
        if soft is None:
            return self.embed(input_ids)
        marks = functional.embedding(input_ids.clamp(max=FIRST_SOFT - 1), self.vocabulary[:FIRST_SOFT])
        return torch.where(input_ids[..., None] < FIRST_SOFT, marks, soft[(input_ids - FIRST_SOFT).clamp(min=0)])

    def encode_history(self, input_ids: Tensor, lengths: Tensor, soft: Tensor | None = None) -> Tensor:
        """Interest z [B, d] at the last token of each history, its `[INT]`; `soft` as in `embed_history`."""
        return self.to_interest(self.read_at(self.embed_history(input_ids, soft), lengths[:, None] - 1)[:, 0])

    def encode_items(
        self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor, id_index: Tensor
    ) -> Tensor:
        """Item embedding e = l2norm(l2norm(W_e adapter(centre(x))) + id) [B, d], read at `[ITEM]`, the last token.

        The content has length 1 before the id is added, so that zero-initialised ids can come to matter.
        """
        return self.to_items(self.read_items(token_ids, lengths, picture, has_picture), id_index)

    def read_items(self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor) -> Tensor:
        """States [B, K, H] at the K tokens that close each text; also of queries, which have no picture."""
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
        soft: Tensor = self.compressor(states)
        return soft

    def soft_table(self, items: Tensor, queries: dict[str, Tensor] | None) -> Tensor:
        """Soft tokens [R, H] of items, given as states [B, K, H], then of queries, given as inputs of `read_items`.

        A last row of zeros, which nothing names, keeps a table without items and queries from being empty.
        """
        parts = [self.to_soft(items)]
        if queries is not None:
            parts.append(self.to_soft(self.read_items(**{k: v for k, v in queries.items() if k != "id_index"})))
        return functional.pad(torch.cat([part.flatten(0, 1) for part in parts]), (0, 0, 0, 1))

    def read_at(self, embeddings: Tensor, at: Tensor) -> Tensor:
        """States [B, K, H] at the positions `at` [B, K] of plain left-to-right reading."""
        states = self.read(embeddings, *causal(embeddings.shape[1], embeddings))
        return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))

    def read_history(self, input_ids: Tensor, soft: Tensor | None = None) -> Tensor:
        """States [B, S, H] of whole histories; every `[INT]` among them is a training position."""
        return self.read(self.embed_history(input_ids, soft), *causal(input_ids.shape[1], input_ids))

    def read_with_segments(
        self, input_ids: Tensor, at: Tensor, segments: Tensor, soft: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States of histories [B, S, H], and of G text segments a history [B, G, T, H] that nothing else can see.

        Segment g of `segments` [B, G, T] continues its history after position `at` [B, G]: it sees the history up to
        there, and itself.
        """
        length = input_ids.shape[1]
        embeddings = torch.cat([self.embed_history(input_ids, soft), self.embed(segments.flatten(1))], dim=1)
        states = self.read(embeddings, *segmented(length, at, segments.shape[2]))
        return states[:, :length], states[:, length:].reshape(*segments.shape, -1)

    def reconstruct(self, interests: Tensor, segments: Tensor) -> Tensor:
        """States [N, T, H] of `segments` [N, T], conditioned on P(z) of `interests` [N, d] and on nothing else."""
        language_model = self.backbone if self.decoder is None else self.decoder
        soft = self.soft(interests).reshape(len(interests), -1, self.vocabulary.shape[1])
        embeddings = torch.cat([soft, language_model.embed_tokens(segments)], dim=1)
        states = _read(language_model, embeddings, *causal(embeddings.shape[1], embeddings))
        return states[:, soft.shape[1] :]

    def decoding_vocabulary(self) -> Tensor:
        """[V, H]: output layer of the model that `reconstruct` uses."""
        if self.decoder is None:
            return self.vocabulary
        weight: Tensor = self.decoder.embed_tokens.weight
        return weight


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


def _read(language_model: nn.Module, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    # A mapping by layer type is taken as it is: the library builds no mask of its own.
    output = language_model(inputs_embeds=embeddings, attention_mask={"full_attention": mask}, position_ids=positions)
    states: Tensor = output.last_hidden_state
    return states


def _read_out(config: KarmaConfig) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(config.hidden, affine=False),
        nn.Linear(config.hidden, config.hidden),
        nn.GELU(),
        nn.Linear(config.hidden, config.embedding),
    )


def _language_model(config: KarmaConfig, vocabulary: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.feedforward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=config.history_limit + config.item_tokens + config.soft_tokens + 2,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
