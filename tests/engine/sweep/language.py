"""Models of transformers and peft, built from configurations with random weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .case import Case, Draw

TOKENS, CLASSES = 50, 3

WIDTH: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "num_labels": CLASSES,
}
DECODER: dict[str, Any] = {**WIDTH, "num_key_value_heads": 1, "head_dim": 8, "use_cache": False}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
}
SPEECH: dict[str, Any] = {
    **WIDTH,
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
    "classifier_proj_size": 8,
    "layerdrop": 0.0,
}
T5: dict[str, Any] = {
    "vocab_size": TOKENS,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
BART: dict[str, Any] = {
    "vocab_size": TOKENS,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "num_labels": CLASSES,
    "use_cache": False,
}


class First(nn.Module):
    """The first output only: caches are no tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs)[0]


def _built(
    kind: str, configuration: str, options: dict[str, Any], checkpointing: bool = False
) -> nn.Module:
    import transformers

    config = getattr(transformers, configuration)(**options)
    for name in vars(config):
        chance = "dropout" in name or name == "layerdrop" or name.endswith("_pdrop")
        if chance and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    model = getattr(transformers, kind)(config)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return First(model)


def _adapted(kind: str, options: dict[str, Any]) -> nn.Module:
    import peft

    if kind in {"PrefixTuningConfig", "PromptTuningConfig"}:
        inner = _built("GPT2LMHeadModel", "GPT2Config", GPT2)
    else:
        inner = _built("BertForSequenceClassification", "BertConfig", WIDTH)
    return First(peft.get_peft_model(inner.model, getattr(peft, kind)(**options)))


GPT2: dict[str, Any] = {
    "vocab_size": TOKENS,
    "n_positions": 32,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "use_cache": False,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _text(n: int, which: int) -> dict[str, Tensor]:
    """Padded to the right by masks; shorter in the second batch."""
    length = 9 - 2 * (which == 1)
    tokens = torch.randint(2, TOKENS, (n, length))
    lengths = torch.randint(3, length + 1, (n,))
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


def _whole_text(n: int, which: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(2, TOKENS, (n, 9 - 2 * (which == 1)))}


def _square_text(n: int, which: int) -> dict[str, Tensor]:
    """As many tokens as samples."""
    return {"input_ids": torch.randint(2, TOKENS, (n, n))}


def _both(n: int, which: int) -> dict[str, Tensor]:
    return {
        **_text(n, which),
        "decoder_input_ids": torch.randint(2, TOKENS, (n, 5 + (which == 1))),
    }


def _pixels(n: int, which: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 3, 32, 32, dtype=torch.float64)}


def _larger_pixels(n: int, which: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 3, 64, 64, dtype=torch.float64)}


def _sound(n: int, which: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 200 - 40 * (which == 1), dtype=torch.float64)}


def _spectrum(n: int, which: int) -> dict[str, Tensor]:
    return {"input_features": torch.randn(n, 8, 24, dtype=torch.float64)}


MODELS: dict[str, tuple[str, str, dict[str, Any], Draw]] = {
    **{
        f"{name} classifier": (f"{name}ForSequenceClassification", f"{name}Config", WIDTH, _text)
        for name in (
            "Bert", "Roberta", "Albert", "Electra", "Deberta", "DebertaV2", "MPNet", "Ernie",
            "RoFormer", "ConvBert", "MegatronBert", "Camembert", "XLMRoberta", "Data2VecText",
            "MobileBert", "Nystromformer", "LayoutLM", "BigBird", "Yoso",
            "RemBert", "ModernBert", "Esm", "FNet", "IBert", "Mra", "Canine",
        )
    },
    **{
        f"{name} language model": (f"{name}ForMaskedLM", f"{name}Config", WIDTH, _text)
        for name in ("Bert", "Roberta", "Albert", "Deberta")
    },
    **{
        f"{name} causal": (f"{name}ForCausalLM", f"{name}Config", DECODER, _text)
        for name in (
            "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi", "Phi3",
            "StableLm", "Olmo", "Olmo2", "Cohere", "GPTNeoX", "Starcoder2", "Granite",
            "Glm", "Helium", "Nemotron", "SmolLM3", "OPT", "Bloom", "Mixtral", "Qwen2Moe",
            "Jamba", "Persimmon", "Ministral", "Ernie4_5", "Exaone4", "Arcee",
        )
    },
    "Gemma3 causal": ("Gemma3ForCausalLM", "Gemma3TextConfig", DECODER, _text),
    "Falcon causal": (
        "FalconForCausalLM",
        "FalconConfig",
        {name: DECODER[name] for name in DECODER if name != "head_dim"},
        _text,
    ),
    "SqueezeBert classifier": (
        "SqueezeBertForSequenceClassification",
        "SqueezeBertConfig",
        {**WIDTH, "embedding_size": 16},
        _text,
    ),
    "DistilBert classifier": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "vocab_size": TOKENS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
            "max_position_embeddings": 32, "num_labels": CLASSES,
        },
        _text,
    ),
    "XLNet": (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        {"vocab_size": TOKENS, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        _text,
    ),
    "GPT2": ("GPT2LMHeadModel", "GPT2Config", GPT2, _text),
    "GPT2 classifier": ("GPT2ForSequenceClassification", "GPT2Config", GPT2, _text),
    "GPT-Neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": TOKENS, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32,
            "use_cache": False,
        },
        _text,
    ),
    "GPT-J": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {**{k: GPT2[k] for k in ("vocab_size", "n_embd", "n_layer", "n_head", "use_cache")},
         "rotary_dim": 4, "n_positions": 32},
        _text,
    ),
    "CTRL": ("CTRLLMHeadModel", "CTRLConfig", {**GPT2, "dff": 24}, _text),
    "Mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {
            "vocab_size": TOKENS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2,
            "use_cache": False,
        },
        _whole_text,
    ),
    "Mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "vocab_size": TOKENS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2,
            "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4, "use_cache": False,
        },
        _whole_text,
    ),
    "RWKV": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {"vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 2, "use_cache": False},
        _whole_text,
    ),
    "Reformer": (
        "ReformerModel",
        "ReformerConfig",
        {
            "vocab_size": TOKENS, "hidden_size": 16, "num_attention_heads": 2,
            "attention_head_size": 8, "feed_forward_size": 24, "attn_layers": ["local"],
            "axial_pos_shape": (4, 8), "axial_pos_embds_dim": (8, 8),
            "max_position_embeddings": 32,
        },
        _whole_text,
    ),
    "Funnel": (
        "FunnelForSequenceClassification",
        "FunnelConfig",
        {
            "vocab_size": TOKENS, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24,
            "block_sizes": [1, 1], "num_labels": CLASSES,
        },
        _text,
    ),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5, _both),
    "T5 encoder": ("T5EncoderModel", "T5Config", T5, _text),
    "MT5": ("MT5ForConditionalGeneration", "MT5Config", T5, _both),
    "UMT5": ("UMT5ForConditionalGeneration", "UMT5Config", T5, _both),
    "BART": ("BartForConditionalGeneration", "BartConfig", BART, _both),
    "MBart": ("MBartForConditionalGeneration", "MBartConfig", BART, _both),
    "Pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", BART, _both),
    "Marian": ("MarianMTModel", "MarianConfig", {**BART, "pad_token_id": 0}, _both),
    "Blenderbot": ("BlenderbotForConditionalGeneration", "BlenderbotConfig", BART, _both),
    "M2M100": ("M2M100ForConditionalGeneration", "M2M100Config", BART, _both),
    **{
        f"{name} classifier": (f"{name}ForImageClassification", f"{name}Config", VISION, _pixels)
        for name in ("ViT", "DeiT", "Beit", "Data2VecVision", "ViTMSN", "Dinov2", "IJepa")
    },
    "CLIP vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", VISION, _pixels),
    "CLIP text": (
        "CLIPTextModelWithProjection",
        "CLIPTextConfig",
        {**WIDTH, "eos_token_id": TOKENS - 1},
        _text,
    ),
    "SigLIP vision": ("SiglipVisionModel", "SiglipVisionConfig", VISION, _pixels),
    "Swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2],
            "num_heads": [1, 2], "window_size": 4, "num_labels": CLASSES,
        },
        _pixels,
    ),
    "SwinV2": (
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {
            "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2],
            "num_heads": [1, 2], "window_size": 4, "num_labels": CLASSES,
        },
        _pixels,
    ),
    "ConvNext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_labels": CLASSES},
        _pixels,
    ),
    "ConvNextV2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_labels": CLASSES},
        _pixels,
    ),
    "ResNet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8,
            "layer_type": "basic", "num_labels": CLASSES,
        },
        _pixels,
    ),
    "RegNet": (
        "RegNetForImageClassification",
        "RegNetConfig",
        {
            "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "groups_width": 8,
            "num_labels": CLASSES,
        },
        _pixels,
    ),
    "LeViT": (
        "LevitForImageClassification",
        "LevitConfig",
        {
            "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1], "key_dim": [8, 8, 8], "num_labels": CLASSES,
            "down_ops": [["Subsample", 8, 2, 2, 2, 2], ["Subsample", 8, 3, 2, 2, 2]],
        },
        _larger_pixels,
    ),
    "Segformer": (
        "SegformerForImageClassification",
        "SegformerConfig",
        {
            "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2], "num_labels": CLASSES,
        },
        _larger_pixels,
    ),
    "PoolFormer": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_labels": CLASSES},
        _larger_pixels,
    ),
    "MobileViT": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": 2,
            "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 16], "num_labels": CLASSES,
        },
        _larger_pixels,
    ),
    "Wav2Vec2": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", SPEECH, _sound),
    "Hubert": ("HubertForSequenceClassification", "HubertConfig", SPEECH, _sound),
    "WavLM": ("WavLMForSequenceClassification", "WavLMConfig", SPEECH, _sound),
    "UniSpeech": ("UniSpeechForSequenceClassification", "UniSpeechConfig", SPEECH, _sound),
    "Data2VecAudio": (
        "Data2VecAudioForSequenceClassification",
        "Data2VecAudioConfig",
        SPEECH,
        _sound,
    ),
    "Whisper encoder": (
        "WhisperForAudioClassification",
        "WhisperConfig",
        {**BART, "num_mel_bins": 8, "max_source_positions": 12, "classifier_proj_size": 8,
         "pad_token_id": 0},
        _spectrum,
    ),
    "AST": (
        "ASTForAudioClassification",
        "ASTConfig",
        {**VISION, "max_length": 24, "num_mel_bins": 16},
        lambda n, which: {"input_values": torch.randn(n, 24, 16, dtype=torch.float64)},
    ),
    "Perceiver": (
        "PerceiverForSequenceClassification",
        "PerceiverConfig",
        {
            "vocab_size": TOKENS, "d_model": 16, "d_latents": 16, "num_latents": 4,
            "num_blocks": 1, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2, "max_position_embeddings": 32, "num_labels": CLASSES,
        },
        lambda n, which: {
            "inputs": _text(n, which)["input_ids"],
            "attention_mask": _text(n, which)["attention_mask"],
        },
    ),
}  # fmt: skip
"""Class, configuration, its options, and how it is fed."""

ADAPTERS: dict[str, tuple[str, dict[str, Any], Draw]] = {
    "LoRA": ("LoraConfig", {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query", "value"]},
             _text),
    "DoRA": ("LoraConfig", {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"],
                            "use_dora": True}, _text),
    "IA3": ("IA3Config", {"task_type": "SEQ_CLS", "target_modules": ["key", "value", "dense"],
                          "feedforward_modules": ["dense"]}, _text),
    "AdaLoRA": ("AdaLoraConfig", {"task_type": "SEQ_CLS", "init_r": 3, "total_step": 10,
                                  "target_modules": ["query"]}, _text),
    "LoHa": ("LoHaConfig", {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}, _text),
    "LoKr": ("LoKrConfig", {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}, _text),
    "OFT": ("OFTConfig", {"task_type": "SEQ_CLS", "r": 2, "oft_block_size": 0,
                          "target_modules": ["query"]}, _text),
    "VeRA": ("VeraConfig", {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}, _text),
    "BOFT": ("BOFTConfig", {"task_type": "SEQ_CLS", "boft_block_size": 4,
                            "target_modules": ["query"]}, _text),
    "FourierFT": ("FourierFTConfig", {"task_type": "SEQ_CLS", "n_frequency": 5,
                                      "target_modules": ["query"]}, _text),
    "LayerNorm tuning": ("LNTuningConfig", {"task_type": "SEQ_CLS",
                                            "target_modules": ["LayerNorm"]}, _text),
    "prefix tuning": ("PrefixTuningConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3},
                      _text),
    "prompt tuning": ("PromptTuningConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3},
                      _text),
}  # fmt: skip

QUICK = {"Bert classifier", "T5", "Wav2Vec2", "LoRA"}

REFUSED: dict[str, str] = dict.fromkeys(
    ("T5, checkpointed", "Wav2Vec2", "Hubert"), r"setattr\(\) on Tensor.requires_grad"
)
"""What the refusal says, by name."""


def _case(name: str, build: Any, draw: Draw, package: str = "transformers") -> Case:
    return Case(build, draw, REFUSED.get(name), name in QUICK, package)


def _checkpointed(name: str) -> Case:
    kind, configuration, options, draw = MODELS[name]
    build = functools.partial(_built, kind, configuration, options, True)
    return _case(f"{name}, checkpointed", build, draw)


CASES: dict[str, Case] = {
    **{
        name: _case(name, functools.partial(_built, kind, configuration, options), draw)
        for name, (kind, configuration, options, draw) in MODELS.items()
    },
    **{f"{n}, checkpointed": _checkpointed(n) for n in ("T5", "Bert classifier", "GPT2", "BART")},
    "Bert, as many tokens as samples": _case(
        "Bert, as many tokens as samples",
        functools.partial(_built, "BertForSequenceClassification", "BertConfig", WIDTH),
        _square_text,
    ),
    **{
        name: _case(name, functools.partial(_adapted, kind, options), draw, "peft")
        for name, (kind, options, draw) in ADAPTERS.items()
    },
}
