"""KARMA's language model: the built-in small one, or any pre-trained causal one from a directory or the hub.

A pre-trained one keeps its own tokenizer and vocabulary. KARMA's special tokens come before it, as rows of their own
that are always trained; what the backbone itself uses as control tokens no text can produce (see `load_tokenizer`).
Weights are read from safetensors only, and code from `transformers` only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, Qwen3Config, Qwen3Model
from transformers.utils import cached_file

from features.errors import ConfigurationError
from features.files import sha256_of_file, sha256_of_json
from models.karma.config import KarmaConfig
from models.karma.text import BOS, EOS, PAD, SPECIALS

NEEDED = "config.json, weights as *.safetensors and tokenizer.json"
UNWRITABLE = "\0"
"""Goes before a control token's name in the vocabulary: texts lose their control characters before they are encoded."""


# What transformers says it by that there is no such model, that files are damaged, or that code would have to run,
_NOT_THERE = (OSError, ValueError, RuntimeError, SafetensorError)
# and that config.json needs another package, or holds what no model can have.
_NOT_POSSIBLE = (ImportError, ArithmeticError, TypeError, StrictDataclassError)


class PretrainedLanguageModel(nn.Module):
    """A pre-trained decoder with KARMA's special tokens before its vocabulary; called as transformers' own decoders."""

    def __init__(self, model: Any, config: KarmaConfig) -> None:
        """`model` is a causal language model of transformers; how it learns is `config.adaptation`."""
        super().__init__()
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        words = decoder.get_input_embeddings().weight
        self.config, self.rows = decoder.config, len(words)
        self.special_tokens = nn.Parameter(_like_rows_of(words))
        tied = head.weight is words
        self.output = None if tied else head  # decoding only
        self.output_specials = None if tied else nn.Parameter(_like_rows_of(head.weight))
        if config.adaptation != "full":
            model.requires_grad_(False)
        if config.gradient_checkpointing:
            _compute_twice(decoder)
        self.decoder = _with_corrections(decoder, config) if config.adaptation == "lora" else decoder

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Embeddings [..., H]; the first ids are the special tokens, the others follow by their own ids."""
        special = nn.functional.embedding(token_ids.clamp(max=len(SPECIALS) - 1), self.special_tokens)
        text = self.decoder.get_input_embeddings()((token_ids - len(SPECIALS)).clamp(min=0))
        return torch.where(token_ids[..., None] < len(SPECIALS), special, text)

    def output_layer(self) -> Tensor:
        """[V, H], the special tokens' rows first."""
        if self.output is None or self.output_specials is None:
            return torch.cat([self.special_tokens, self.decoder.get_input_embeddings().weight])
        return torch.cat([self.output_specials, self.output.weight])

    def forward(self, *, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        """As the decoder: `last_hidden_state` [B, S, H] of embeddings [B, S, H] under a mask [B or 1, 1, S, S]."""
        return self.decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )

    def merge(self) -> None:
        """Add low-rank corrections to the weights they correct: from here on it is a plain decoder."""
        if hasattr(self.decoder, "merge_and_unload"):
            self.decoder = self.decoder.merge_and_unload()


def language_model(config: KarmaConfig, *, vocabulary: int) -> Any:
    """The language model that `config` names, for `vocabulary` tokens with the special ones.

    The built-in one draws its weights from torch's global generator. Raises ConfigurationError where a pre-trained one
    cannot be used: see `load_pretrained`.
    """
    if not config.backbone:
        small = Qwen3Model(_small(config, vocabulary))
        if config.gradient_checkpointing:
            _compute_twice(small)
        return small
    made = PretrainedLanguageModel(load_pretrained(config.backbone, revision=config.backbone_revision), config)
    if vocabulary > len(SPECIALS) + made.rows:
        raise ConfigurationError(
            f"backbone {config.backbone!r}: expected a tokenizer with ids below its {made.rows} token embeddings, "
            f"got id {vocabulary - len(SPECIALS) - 1}"
        )
    room, needed = getattr(made.config, "max_position_embeddings", None), _positions(config)
    if room is not None and room < needed:
        raise ConfigurationError(f"backbone {config.backbone!r}: expected room for {needed} positions, got {room}")
    window = getattr(made.config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(made.config, "layer_types", None) or ["sliding_attention"])
    if window is not None and slides and window < needed:  # one mask serves all layers
        raise ConfigurationError(
            f"backbone {config.backbone!r}: expected layers that see all {needed} positions, got a window of {window}"
        )
    return made


def decoder_of(model: Any) -> Any:
    """The decoder of transformers in what `language_model` made, which the built-in one is itself."""
    return model.decoder if isinstance(model, PretrainedLanguageModel) else model


def output_layer(model: Any) -> Tensor:
    """[V, H]: the output layer of what `language_model` made; the built-in one ties it to its token embeddings."""
    if isinstance(model, PretrainedLanguageModel):
        return model.output_layer()
    weight: Tensor = model.embed_tokens.weight
    return weight


def special_embeddings(model: Any) -> Tensor:
    """[special tokens, H]: the input embeddings of the special tokens alone."""
    if isinstance(model, PretrainedLanguageModel):
        return model.special_tokens
    weight: Tensor = model.embed_tokens.weight
    return weight[: len(SPECIALS)]


def load_pretrained(name: str, *, revision: str = "main") -> Any:
    """The causal language model in the directory `name`, or of that name on the hub, in float32.

    Of a vision-language model (Qwen3-VL) it is the text part that reads. Raises ConfigurationError if files are missing
    or damaged, if weights are pickled only, not finite or more than the configuration describes, if it needs code of
    its own, or if it is not a causal language model.
    """
    _refuse_nowhere(name)
    _refuse_incomplete(name)
    with explained(name):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        _refuse_quantised(config, name)
        seeing = config.model_type == "qwen3_vl"
        architectures = config.architectures or ["none named"]
        if not seeing and not any(known.endswith("ForCausalLM") for known in architectures):
            raise ConfigurationError(
                f"backbone {name!r}: expected a causal language model, named ...ForCausalLM, got {architectures}"
            )
        kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
        model, loading = kind.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    _refuse_other_weights(model, name, missing=loading["missing_keys"], unexpected=loading["unexpected_keys"])
    _refuse_unmasked(model, name)
    return model


def load_tokenizer(name: str, *, revision: str = "main") -> Tokenizer:
    """The tokenizer of the backbone `name`, unable to produce its control tokens (`<|im_start|>`, `</s>`, ...).

    They are neither looked for in texts nor reachable by merges. Raises ConfigurationError if `tokenizer.json` is
    missing, damaged or not a byte-pair encoding.
    """
    _refuse_nowhere(name)
    with explained(name):
        path = cached_file(name, "tokenizer.json", revision=revision)
    with _readable_tokenizer(name):
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = document["model"].get("type")
    if kind != "BPE":
        raise ConfigurationError(f"backbone {name!r}: expected a byte-pair tokenizer, got {kind!r}")
    with _readable_tokenizer(name):
        return _guarded(document)


def _guarded(document: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, its control tokens out of reach."""
    model = document["model"]
    control = {entry["content"] for entry in document.get("added_tokens") or []}

    def hidden(token: str) -> str:
        return UNWRITABLE + token if token in control else token

    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    model["merges"] = [pair for pair in pairs if not control & {*pair, "".join(pair)}]
    model["vocab"] = {hidden(token): number for token, number in model["vocab"].items()}
    model["unk_token"] = None  # what the tokenizer does not know is left out
    document |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_buffer(json.dumps(document).encode())  # raises ValueError; from_str would raise Exception


@contextmanager
def _readable_tokenizer(name: str) -> Iterator[None]:
    """Turn what a damaged `tokenizer.json` raises into a ConfigurationError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # not JSON or refused; of another shape
        reason = "; ".join(f"{type(error).__name__}: {error}".strip().split("\n"))
        raise ConfigurationError(
            f"backbone {name!r}: expected tokenizer.json to be a tokenizer's JSON with vocab and merges under model; "
            f"{reason}"
        ) from error


def fingerprint(config: KarmaConfig) -> str:
    """What a training depends on of its backbone, empty for the built-in one."""
    return fingerprint_of(config.backbone, config.backbone_revision) if config.backbone else ""


def fingerprint_of(name: str, revision: str) -> str:
    """The bytes of a directory, hashed, or the name and revision on the hub."""
    directory = Path(name)
    if not directory.is_dir():
        return f"{name}@{revision}"
    return sha256_of_json({path.name: sha256_of_file(path) for path in sorted(directory.iterdir()) if path.is_file()})


def _refuse_nowhere(name: str) -> None:
    """A path that leads nowhere, before it is asked for on the hub: names there are `model` or `organisation/model`."""
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith(("./", "../")) or len(path.parts) > 2 or path.is_file()
    if is_path and not path.is_dir():
        raise ConfigurationError(f"backbone {name!r}: expected {NEEDED} in a directory, there is no such directory")


def _refuse_incomplete(name: str) -> None:
    """The commonest mistakes with a directory, in words."""
    directory = Path(name)
    if not directory.is_dir():
        return
    weights = list(directory.glob("*.safetensors"))
    if not weights and (pickled := sorted(directory.glob("*.bin"))):
        raise ConfigurationError(
            f"backbone {name!r}: expected {NEEDED}; {pickled[0].name} is pickled, which can run code: "
            "save the model again with save_pretrained, which writes safetensors"
        )
    if not weights or not (directory / "config.json").is_file() or not (directory / "tokenizer.json").is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
        raise ConfigurationError(f"backbone {name!r}: expected {NEEDED}, found {found}")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers raises about the backbone `name` into a ConfigurationError."""
    try:
        yield
    except (*_NOT_THERE, *_NOT_POSSIBLE) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"backbone {name!r} cannot be used: expected a directory or a hub id with {NEEDED}, "
            f"and no code of its own; {reason}"
        ) from error


def _refuse_quantised(config: Any, name: str) -> None:
    """KARMA trains and exports float32; what it publishes it quantises itself (`[encoding] precision`)."""
    settings = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if settings is not None:
        method = settings.get("quant_method", "unnamed") if isinstance(settings, dict) else "unnamed"
        raise ConfigurationError(
            f"backbone {name!r}: expected weights in floating point, got quantised ones ({method})"
        )


def _refuse_other_weights(model: Any, name: str, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """All that the configuration describes and nothing more of the decoder, every number finite."""
    if found := _first(missing):
        raise ConfigurationError(f"backbone {name!r}: expected all weights, {found} are missing")
    decoder = model.get_decoder()
    inside = next(path for path, module in model.named_modules() if module is decoder) + "."
    if found := _first(key for key in unexpected if key.startswith(inside)):
        raise ConfigurationError(
            f"backbone {name!r}: expected no weights but those that config.json describes, {found} are more"
        )
    if found := _first(key for key, value in model.named_parameters() if not torch.isfinite(value).all()):
        raise ConfigurationError(f"backbone {name!r}: expected finite weights, got NaN or infinity in {found}")


def _first(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])


@torch.no_grad()
def _refuse_unmasked(model: Any, name: str) -> None:
    """KARMA's segments and its reading left to right need a decoder that obeys the mask it is given: try it."""
    decoder = model.get_decoder().eval()
    words = decoder.get_input_embeddings().weight
    embeddings = words[: 4 * (len(words) // 4) : len(words) // 4][:4][None]
    changed = torch.cat([embeddings[:, :1], -embeddings[:, 1:2], embeddings[:, 2:]], dim=1)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    mask[..., 2:, 1] = False  # nothing after it sees token 1

    def read(given: Tensor) -> Tensor:
        positions = torch.arange(4)[None]
        output = decoder(inputs_embeds=given, attention_mask=mask, position_ids=positions, use_cache=False)
        states: Tensor = output.last_hidden_state[:, [0, 2, 3]]
        return states

    if not torch.allclose(read(embeddings), read(changed), atol=1e-4):
        raise ConfigurationError(f"backbone {name!r}: expected a causal decoder that obeys an attention mask")


def _like_rows_of(words: Tensor) -> Tensor:
    """Rows for the special tokens, drawn around the mean of the others with their spread."""
    known = words.detach()
    return known.mean(dim=0) + known.std(dim=0) * torch.randn(len(SPECIALS), known.shape[1])


def _compute_twice(decoder: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a new name since 5.23; this one is there until 6
        # the re-entrant kind loses gradients where the input of a layer needs none
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _with_corrections(decoder: Any, config: KarmaConfig) -> Any:
    from peft import LoraConfig, get_peft_model  # seconds to import, and the built-in model needs none of it

    modules: str | list[str] = config.lora_modules
    if modules != "all-linear":
        modules = [name.strip() for name in config.lora_modules.split(",")]
        _refuse_unknown_layers(decoder, config, modules)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=modules,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers renames
        try:
            return get_peft_model(decoder, lora)
        except ValueError as error:  # no such layers, or layers of a kind that it cannot correct
            reason = str(error).strip().split("\n")[0]
            raise ConfigurationError(
                f"backbone {config.backbone!r} with lora_modules {config.lora_modules!r} and lora_dropout "
                f"{config.lora_dropout}: {reason}"
            ) from error


def _refuse_unknown_layers(decoder: Any, config: KarmaConfig, names: Iterable[str]) -> None:
    """A name that no layer bears: peft says nothing as long as another one is found."""
    paths = [f".{path}" for path, _ in decoder.named_modules() if path]
    if unknown := [name for name in names if not any(path.endswith(f".{name}") for path in paths)]:
        raise ConfigurationError(
            f"backbone {config.backbone!r} with lora_modules {config.lora_modules!r}: it has no layer {unknown[0]!r}"
        )


def _positions(config: KarmaConfig) -> int:
    return config.history_limit + config.item_tokens + config.soft_tokens + 2


def _small(config: KarmaConfig, vocabulary: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.feedforward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=_positions(config),
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
