"""Models of timm and torchvision, with few and small layers where they can be had so."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from .case import Case, images

CLASSES = 3


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, num_classes=CLASSES, **options)


FEW: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
PATCHES: dict[str, Any] = {**FEW, "img_size": 32, "patch_size": 8}
SHORT: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
LAYERS: dict[str, Any] = {"layers": (1, 1, 1, 1)}

TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (32, PATCHES),
    "vit_base_patch16_clip_224": (32, PATCHES),
    "vit_base_patch16_siglip_224": (32, PATCHES),
    "vit_small_patch16_36x1_224": (32, PATCHES),
    "vit_small_patch16_18x2_224": (32, PATCHES),
    "vit_relpos_small_patch16_224": (32, PATCHES),
    "vit_srelpos_small_patch16_224": (32, PATCHES),
    "vit_relpos_base_patch16_cls_224": (32, PATCHES),
    "vit_tiny_r_s16_p8_224": (64, {"img_size": 64, **FEW}),
    "vit_base_patch16_rope_224": (32, PATCHES),
    "vit_small_patch16_dinov3": (32, PATCHES),
    "deit_tiny_patch16_224": (32, PATCHES),
    "deit_tiny_distilled_patch16_224": (32, PATCHES),
    "deit3_small_patch16_224": (32, PATCHES),
    "beit_base_patch16_224": (32, PATCHES),
    "beitv2_base_patch16_224": (32, PATCHES),
    "eva02_tiny_patch14_224": (28, {**FEW, "img_size": 28}),
    "cait_xxs24_224": (32, PATCHES),
    "convit_tiny": (32, {**FEW, "img_size": 32, "local_up_to_layer": 1}),
    "xcit_nano_12_p16_224": (32, {**FEW, "img_size": 32}),
    "volo_d1_224": (64, {"img_size": 64}),
    "tnt_s_legacy_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "mixer_s16_224": (32, {"img_size": 32}),
    "gmlp_ti16_224": (32, {"img_size": 32}),
    "resmlp_12_224": (32, {"img_size": 32}),
    "swin_tiny_patch4_window7_224": (
        64,
        {"img_size": 64, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4},
    ),
    "swinv2_tiny_window8_256": (
        64,
        {"img_size": 64, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4},
    ),
    "swinv2_cr_tiny_224": (
        64,
        {"img_size": 64, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4},
    ),
    "pit_ti_224": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "twins_svt_small": (64, {"img_size": 64, "depths": (1, 1, 1, 1)}),
    "twins_pcpvt_small": (64, {"img_size": 64, "depths": (1, 1, 1, 1)}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "levit_128s": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "levit_conv_128s": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "coat_tiny": (64, {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1}),
    "crossvit_tiny_240": (240, {"depth": ((1, 1, 0),)}),
    "visformer_tiny": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "nest_tiny": (64, {"img_size": 64}),
    "tiny_vit_5m_224": (64, {"depths": (1, 1, 1, 1)}),
    "davit_tiny": (64, {"depths": (1, 1, 1, 1), "embed_dims": (12, 24, 48, 96)}),
    "gcvit_xxtiny": (64, {"img_size": 64}),
    "maxvit_tiny_rw_224": (64, {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)}),
    "coatnet_pico_rw_224": (64, {"img_size": 64, "depths": (1, 1, 1, 1)}),
    "maxxvit_rmlp_nano_rw_256": (64, {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "hiera_tiny_224": (64, {"img_size": (64, 64), "stages": (1, 1, 1, 1), "embed_dim": 24}),
    "sam2_hiera_tiny": (64, {"stages": (1, 1, 1, 1), "global_att_blocks": (2,)}),
    "samvit_base_patch16_224": (32, {**PATCHES, "global_attn_indexes": (1,), "window_size": 2}),
    "focalnet_tiny_srf": (64, {}),
    "edgenext_xx_small": (64, {"depths": (1, 1, 1, 1)}),
    "efficientformer_l1": (224, {"depths": (1, 1, 1, 1), "num_vit": 1}),
    "efficientformerv2_s0": (224, {"depths": (1, 1, 1, 1), "num_vit": 1}),
    "efficientvit_b0": (64, {"depths": (1, 1, 1, 1)}),
    "efficientvit_m0": (224, {"depth": (1, 1, 1)}),
    "fastvit_t8": (64, {"layers": (1, 1, 1, 1)}),
    "swiftformer_xs": (64, {"layers": (1, 1, 1, 1)}),
    "inception_next_atto": (64, {"depths": (1, 1, 1, 1)}),
    "poolformer_s12": (64, {}),
    "poolformerv2_s12": (64, {}),
    "convformer_s18": (64, {}),
    "caformer_s18": (64, {}),
    "mambaout_femto": (64, SHORT),
    "convnext_atto": (64, SHORT),
    "convnextv2_atto": (64, SHORT),
    "convnext_zepto_rms": (64, SHORT),
    "convmixer_768_32": (32, {}),
    "sequencer2d_s": (64, {"img_size": 64, "layers": (1, 1, 1, 1)}),
    "starnet_s050": (64, {"depths": (1, 1, 1, 1)}),
    "shvit_s1": (64, {}),
    "fasternet_t0": (64, {"depths": (1, 1, 1, 1)}),
    "rdnet_tiny": (64, {}),
    "resnet10t": (64, {}),
    "resnet18": (64, LAYERS),
    "resnet26d": (64, LAYERS),
    "seresnet18": (64, LAYERS),
    "ecaresnet26t": (64, LAYERS),
    "resnetblur18": (64, LAYERS),
    "resnext26ts": (64, {}),
    "resnetv2_18": (64, {"layers": (1, 1, 1, 1)}),
    "resnetv2_50x1_bit": (64, {}),
    "skresnet18": (64, LAYERS),
    "resnest14d": (64, {}),
    "res2next50": (64, LAYERS),
    "legacy_seresnet18": (64, {}),
    "regnetx_002": (64, {}),
    "regnety_002": (64, {}),
    "regnetz_005": (64, {}),
    "densenet121": (64, {"block_config": (2, 2), "growth_rate": 8}),
    "dla46x_c": (64, {}),
    "dpn48b": (64, {"k_sec": (1, 1, 1, 1)}),
    "cs3darknet_focus_s": (64, {}),
    "cspresnet50": (64, {}),
    "vovnet39a": (64, {}),
    "ese_vovnet19b_slim_dw": (64, {}),
    "efficientnet_b0": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "mnasnet_050": (64, {}),
    "mobilenetv2_035": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_035": (64, {}),
    "lcnet_035": (64, {}),
    "tinynet_e": (64, {}),
    "fbnetc_100": (64, {}),
    "mixnet_s": (64, {}),
    "ghostnet_050": (64, {}),
    "repghostnet_050": (64, {}),
    "hardcorenas_a": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "mobileone_s1": (64, {}),
    "repvgg_a0": (64, {}),
    "gernet_s": (64, {}),
    "halonet_h1": (256, {}),
    "lambda_resnet26t": (64, {"img_size": 64}),
    "eca_botnext26ts_256": (64, {"img_size": 64}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "nf_ecaresnet26": (64, {}),
    "repvit_m0_9": (64, {"depth": (1, 1, 1, 1)}),
    "rexnet_100": (64, {}),
    "selecsls42": (64, {}),
    "tresnet_m": (64, {"layers": (1, 1, 1, 1)}),
    "legacy_xception": (96, {}),
    "xception41p": (64, {}),
    "inception_v3": (96, {}),
    "vgg11": (32, {}),
    "vgg11_bn": (32, {}),
    "efficientvim_m1": (64, {}),
    "ghostnetv3_050": (64, {}),
    "iformer_t": (64, {}),
    "nextvit_small": (64, {}),
    "vitamin_small_224": (64, {"img_size": 64}),
}  # fmt: skip
"""Resolution and options, by name."""

TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "squeezenet1_1": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "mobilenet_v2": (64, {"width_mult": 0.25}),
    "mobilenet_v3_small": (64, {"width_mult": 0.25}),
    "mnasnet0_5": (64, {}),
    "efficientnet_b0": (64, {}),
    "regnet_y_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (64, {}),
    "wide_resnet50_2": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "vgg11": (32, {}),
    "vgg11_bn": (32, {}),
    "convnext_tiny": (64, {}),
    "vit_b_16": (32, {"image_size": 32}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "maxvit_t": (224, {}),
}

QUICK = {"vit_tiny_patch16_224", "convit_tiny", "levit_128s"}

REFUSED: dict[str, str] = {}
"""What the refusal says, by name."""

CASES: dict[str, Case] = {
    **{
        f"timm {name}": Case(
            functools.partial(_timm, name, options),
            images(size),
            REFUSED.get(name),
            name in QUICK,
            "timm",
        )
        for name, (size, options) in TIMM.items()
    },
    **{
        f"torchvision {name}": Case(
            functools.partial(_torchvision, name, options),
            images(size),
            REFUSED.get(f"torchvision {name}"),
            package="torchvision",
        )
        for name, (size, options) in TORCHVISION.items()
    },
}
