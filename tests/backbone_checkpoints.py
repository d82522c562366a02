"""Pre-trained backbones small enough to write in a test: the real architectures and file layouts, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = [
    "shirt; red; red shirt 3",
    "lamp; blue; blue lamp 4",
    "green shirt",
    "naïve Ünïcode 猫 🐈 قطة",
    *CONTROL,
    "<s> </s>",
]
SIZES: Mapping[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def byte_level_tokenizer() -> Tokenizer:
    """As GPT-2, Qwen and SmolLM have it; SmolLM's control tokens are part of the vocabulary, as here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])  # Qwen's are matched, though not special
    return tokenizer


def word_piece_boundary_tokenizer() -> Tokenizer:
    """As Llama's converted from SentencePiece: `▁` for spaces, bytes as a fallback, `<s>` put before every text."""
    letters = sorted({letter for text in TEXTS[:3] for letter in text.replace(" ", "▁")} | {"▁", "<", ">", "/"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁s", "re", "red"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("▁", "s"), ("r", "e"), ("re", "d")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def causal_model(family: str, rows: int) -> Any:
    """A random model of `family` with `rows` token embeddings."""
    if family == "qwen3":
        config = Qwen3Config(vocab_size=rows, head_dim=8, num_key_value_heads=2, tie_word_embeddings=True, **SIZES)
        return Qwen3ForCausalLM(config)
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, num_key_value_heads=2, tie_word_embeddings=True, **SIZES))
    tied = family == "smollm"  # Llama keeps an output layer of its own
    heads = 2 if tied else 4
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, num_key_value_heads=heads, tie_word_embeddings=tied, **SIZES))


def vision_language_model(rows: int) -> Any:
    """A random Qwen3-VL of 8 x 8 pixel patches."""
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {**SIZES, "head_dim": 8, "num_key_value_heads": 2, "vocab_size": rows, "rope_parameters": rope}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision))


def write_checkpoint(directory: Path, family: str) -> Path:
    """A checkpoint of `family` (qwen3, qwen2, llama, smollm, qwen3_vl) as the hub lays it out."""
    tokenizer = word_piece_boundary_tokenizer() if family == "llama" else byte_level_tokenizer()
    rows = tokenizer.get_vocab_size() + 5  # published models pad their embeddings
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = vision_language_model(rows) if family == "qwen3_vl" else causal_model(family, rows)
    model.save_pretrained(directory)
    if family == "qwen3_vl":
        size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}  # pixels of a picture
        Qwen2VLImageProcessorPil(patch_size=8, size=size).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
