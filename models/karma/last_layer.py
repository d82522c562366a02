"""The last layer of a language model where it is read, and nowhere else: exact, and half the work of a two-layer model.

A read-out needs the last layer's state at one position or a few. Keys and values are needed of every position, the
query, the attention and the feed-forward of those positions only.
"""

from __future__ import annotations

from torch import Tensor, arange, nn

KNOWN = frozenset({"llama", "qwen2", "qwen3", "qwen3_vl_text"})
"""Architectures whose layers `states_at` computes; SmolLM is a `llama`."""


class _Keys:
    """Stands where a generating model keeps past keys and values: the first call's answer every later one."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = keys, values
        return self.kept


def is_known(language_model: nn.Module) -> bool:
    """Whether `states_at` is exact for the model; others may scale embeddings or order their norms differently."""
    return getattr(getattr(language_model, "config", None), "model_type", None) in KNOWN


def states_at(language_model: nn.Module, embeddings: Tensor, mask: Tensor, positions: Tensor, at: Tensor) -> Tensor:
    """States [B, K, H] at the places `at` [B, K] of `embeddings` [B, S, H], as the whole model computes them.

    `mask` [1, 1, S, S] and `positions` [1, S] are those of left-to-right reading.
    """
    *layers, last = language_model.layers  # type: ignore[misc]
    cos, sin = language_model.rotary_emb(embeddings, position_ids=positions)  # type: ignore[operator]
    rows = embeddings.shape[0]
    turned = cos.expand(rows, -1, -1), sin.expand(rows, -1, -1)  # ONNX's rotary operator asks for every row's own
    states = embeddings
    for layer in layers:
        states = layer(states, attention_mask=mask, position_ids=positions, position_embeddings=turned)
    keys = _Keys()
    last.self_attn(  # for its keys and values alone; an exported graph drops the rest, which nothing reads
        hidden_states=last.input_layernorm(states),
        attention_mask=mask,
        position_ids=positions,
        position_embeddings=turned,
        past_key_values=keys,
    )
    read = states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))
    seen = at[:, None, :, None] >= arange(states.shape[1], device=at.device)
    turned = language_model.rotary_emb(read, position_ids=at)  # type: ignore[operator]
    read = last(read, attention_mask=seen, position_ids=at, position_embeddings=turned, past_key_values=keys)
    normed: Tensor = language_model.norm(read)  # type: ignore[operator]
    return normed
