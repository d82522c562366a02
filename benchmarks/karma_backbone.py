"""A step of a 0.6-billion-parameter backbone in KARMA: tokens a second and peak memory, low-rank and full.

    python benchmarks/karma_backbone.py --batch 1 --tokens 64                      # CPU, float32: about 7 GB
    python benchmarks/karma_backbone.py --device cuda --precision bfloat16 --batch 16 --tokens 512
    python benchmarks/karma_backbone.py --device cuda --checkpointing --adaptation full --json

The shape is Qwen3-0.6B's, the weights are random: neither speed nor memory depends on them. A step is what training
does with a batch: histories of `--tokens` tokens with `[INT]` marks, read under the causal mask; `--decoded` tokens of
each through the whole vocabulary; backward. The optimiser's own step is not in it. Each adaptation runs in a process of
its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from models.karma.backbones import PretrainedLanguageModel, output_layer
from models.karma.config import KarmaConfig
from models.karma.losses import text_loss
from models.karma.network import causal
from models.karma.text import INT, PAD, SPECIALS

ADAPTATIONS = ("lora", "full")
QWEN3_06B = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    tie_word_embeddings=True,
    use_cache=False,
    attn_implementation="sdpa",
)


def main() -> None:
    """Measure each adaptation in a process of its own and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--adaptation", choices=ADAPTATIONS, default=None, help="one of them; both by default")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--batch", type=int, default=1, help="histories")
    parser.add_argument("--tokens", type=int, default=64, help="of a history")
    parser.add_argument("--decoded", type=int, default=20, help="tokens of a history that go through the vocabulary")
    parser.add_argument("--steps", type=int, default=2, help="measured after one that warms up")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.adaptation is not None:
        measured = [measure(options)]
    else:
        measured = [_apart(adaptation) for adaptation in ADAPTATIONS]
    print(json.dumps(measured, indent=2) if options.json else "\n".join(map(_line, measured)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one adaptation in this process."""
    torch.manual_seed(0)
    config = KarmaConfig(backbone="random", adaptation=options.adaptation, gradient_checkpointing=options.checkpointing)
    with torch.device(options.device):
        model = PretrainedLanguageModel(Qwen3ForCausalLM(QWEN3_06B), config).to(options.device).train()
    ids = torch.randint(len(SPECIALS), QWEN3_06B.vocab_size, (options.batch, options.tokens), device=options.device)
    ids[:, ::8] = INT
    seconds, cpu = [], []
    for _ in range(options.steps + 1):
        model.zero_grad(set_to_none=True)
        started, busy = time.perf_counter(), time.process_time()
        loss = _loss(model, ids, decoded=options.decoded, halved=options.precision == "bfloat16")
        loss.backward()  # type: ignore[no-untyped-call]
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - busy)
    step = sum(seconds[1:]) / options.steps
    return {
        "adaptation": options.adaptation,
        "parameters": sum(value.numel() for value in model.parameters()),
        "learned": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "precision": options.precision,
        "gradient_checkpointing": options.checkpointing,
        "batch": options.batch,
        "tokens": options.tokens,
        "seconds_per_step": round(step, 3),
        "cpu_seconds_per_step": round(sum(cpu[1:]) / options.steps, 3),
        "tokens_per_second": round(options.batch * options.tokens / step, 1),
        "peak_memory_mib": _peak_memory(options.device),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _loss(model: PretrainedLanguageModel, ids: Tensor, *, decoded: int, halved: bool) -> Tensor:
    mask, positions = causal(ids.shape[1], ids)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=halved):
        embedded = model.embed_tokens(ids)
        states = model(inputs_embeds=embedded, attention_mask=mask, position_ids=positions).last_hidden_state.float()
    written = slice(-decoded - 1, -1)
    return text_loss(states[:, written], output_layer(model), ids[:, -decoded:], padding=PAD)


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _apart(adaptation: str) -> dict[str, Any]:
    given = [argument for argument in sys.argv[1:] if argument != "--json"]
    command = [sys.executable, str(Path(__file__)), *given, "--json", "--adaptation", adaptation]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (figures,) = json.loads(printed)
    return dict(figures)


def _line(figures: dict[str, Any]) -> str:
    return (
        f"{figures['adaptation']:<5} {figures['learned'] / 1e6:7.1f} of {figures['parameters'] / 1e6:.1f} M learn  "
        f"{figures['seconds_per_step']:8.3f} s a step  {figures['tokens_per_second']:10.1f} tokens/s  "
        f"{figures['peak_memory_mib'] / 1024:6.1f} GiB  ({figures['device']}, {figures['precision']})"
    )


if __name__ == "__main__":
    main()
