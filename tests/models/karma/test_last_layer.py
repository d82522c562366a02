"""The last layer read at a few places is the whole model read there, for every family that is built alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GraniteConfig,
    GraniteModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from models.karma.last_layer import is_known, states_at
from models.karma.network import causal

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "sdpa",
}
FAMILIES = {"llama": (LlamaConfig, LlamaModel), "qwen2": (Qwen2Config, Qwen2Model), "qwen3": (Qwen3Config, Qwen3Model)}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_whole_model_where_it_is_read(family: str, layers: int) -> None:
    configuration, model = FAMILIES[family]
    torch.manual_seed(0)
    network = model(configuration(num_hidden_layers=layers, **SIZES)).eval()
    assert is_known(network)
    embeddings = torch.randn(3, 7, 16)
    mask, positions = causal(7, embeddings)
    at = torch.tensor([[0, 6], [2, 3], [6, 1]])
    with torch.no_grad():
        whole = network(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions).last_hidden_state
        read = states_at(network, embeddings, mask, positions, at)
    for row in range(3):
        assert torch.allclose(read[row], whole[row, at[row]], atol=1e-5)


def test_a_model_of_another_build_is_not_taken_for_one() -> None:
    assert not is_known(nn.Linear(2, 2))
    assert not is_known(GraniteModel(GraniteConfig(num_hidden_layers=1, **SIZES))), "it multiplies its embeddings"
