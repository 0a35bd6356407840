# SPDX-License-Identifier: Apache-2.0
"""What the shared tests must know of each bundle; everything else they read from its configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import torch.nn as nn

from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.hiera import build_sam2_trunk
from monai_ext.networks.nets.sam import build_plain_sam, build_published_encoder

ROOT = Path(__file__).parents[2]
Knobs = Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """A bundle, how to make it small, and what is special about it.

    Args:
        name: of the bundle's folder and of its Python package.
        tiny: knobs that make it run within seconds; also as words for its commands.
        variants: further sets of knobs that must train and evaluate, by what they show.
        frozen: whether training may not change the weight of that name.
        learns: a weight that every step changes.
        trained_file: the weights that training made, beside ``model.pt``.
        misfit: knobs of another architecture, and what the refusal of the weights says.
        fit: knobs of the one shared run, whose network must not see the same everywhere.
        random_training: knobs that make a training step draw random numbers, so that resuming has to restore them.
        data: which data of the tiny data set: its folder, or one of its lists.
        prompt_source: what an evaluation says about prompts.
        card: words that make the commands of the model card small; the user's other knobs stand in the card.
        card_weights: writes the file of published weights that the card's commands start from, of our smallest size.
        export: words that make the export small, beyond what the weights tell.
        guide: page of ``docs`` about its recipes.
    """

    name: str
    tiny: Knobs
    variants: Mapping[str, Knobs]
    frozen: Callable[[str], bool]
    learns: str
    trained_file: str
    misfit: tuple[Knobs, str]
    fit: Knobs = field(default_factory=dict)
    random_training: Knobs = field(default_factory=dict)
    data: str = ""
    prompt_source: str = "none"
    card: str = ""
    card_weights: Callable[[Path], None] = lambda folder: None
    export: str = ""
    guide: str = ""

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        return ROOT / "bundles" / self.name

    @cached_property
    def inference(self) -> dict[str, Any]:
        """Content of ``inference.json``."""
        return json.loads((self.folder / "configs" / "inference.json").read_text(encoding="utf-8"))

    @cached_property
    def inference_knobs(self) -> dict[str, Any]:
        """The tiny knobs that inference has, too."""
        return {name: value for name, value in self.tiny.items() if name in self.inference}

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The tiny knobs that are arguments of the network."""
        return {name: value for name, value in self.tiny.items() if name in self.inference["network_def"]}

    @cached_property
    def network(self) -> type[nn.Module]:
        """The network's class."""
        return locate(self.inference["network_def"]["_target_"])  # type: ignore[return-value]

    @property
    def classes(self) -> int:
        """How many classes the tiny network tells apart, background included."""
        return max(self.tiny["num_classes"], 2)


def _in_sam2s_trunk(name: str) -> bool:
    return name.startswith("encoder.") and "prompt_learn" not in name


def _in_sams_encoder(name: str) -> bool:
    return name.startswith("image_encoder.") and "lora_" not in name


def _in_sams_frozen_parts(name: str) -> bool:
    return name.startswith(("image_encoder.", "prompt_encoder."))


def _sam2_large(folder: Path) -> None:
    trunk = {f"image_encoder.trunk.{name}": weight for name, weight in build_sam2_trunk("nano").state_dict().items()}
    torch.save({"model": trunk}, folder / "sam2.1_hiera_large.pt")  # the published layout


def _sam_vit_b(folder: Path) -> None:
    torch.save(build_plain_sam("vit_tiny", 64).state_dict(), folder / "sam_vit_b_01ec64.pth")


def _samora_files(folder: Path) -> None:
    """Segment Anything, and the three experts of it, where stage 1 would have left them in the bundle."""
    _sam_vit_b(folder)
    published = build_published_encoder("vit_tiny", 64)
    sam = torch.load(folder / "sam_vit_b_01ec64.pth", weights_only=True)
    kept = {name.removeprefix("image_encoder."): w for name, w in sam.items() if name.startswith("image_encoder.")}
    published.load_state_dict(kept)
    encoder = ExpertsEncoder(published, ("image", "patch", "pixel"))
    for level in encoder.experts:
        ExpertFile.of(encoder, level).write(folder / "samora" / "models" / f"expert_{level}.safetensors")


SMALL = {
    "batch_size": 4,
    "num_workers": 0,
    "max_epochs": 1,
    "val_interval": 1,
    "tensorboard": False,
    "device": "cpu",
}
SAM2_UNET = Profile(
    name="sam2_unet",
    tiny={
        "backbone": "nano", "image_size": 32, "in_channels": 1, "num_classes": 4, "tuning": "adapter", **SMALL,
    },
    variants={
        "one-class-four-modalities-lora": {"num_classes": 1, "in_channels": 4, "intensity": "zscore", "tuning": "lora"},
        "two-classes-three-slices-coronal": {
            "num_classes": 2, "slice_context": 1, "plane": "coronal", "intensity": "window", "intensity_upper": 200,
        },
        "thirteen-classes-full": {
            "num_classes": 13, "tuning": "full", "decoder_attention": True, "use_checkpoint": True, "empty_slices": 0.5,
        },
        "frozen-amp-accumulation": {
            "tuning": "frozen", "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "bce_weighting": "paper",
        },
    },
    frozen=_in_sam2s_trunk,
    learns="head.weight",
    trained_file="tasks/main.pt",
    misfit=({"num_classes": 2, "tuning": "adapter"}, "side1.weight is 4"),
    random_training={"dropout": 0.1},
    card="--backbone nano --image_size 32 --num_workers 0 --max_epochs 1 --batch_size 8",
    card_weights=_sam2_large,
    guide="recipes.md",
)  # fmt: skip
SAM_SP = Profile(
    name="sam_sp",
    tiny={"sam_type": "vit_tiny", "image_size": 64, "in_channels": 1, "num_classes": 1, **SMALL},
    variants={
        "one-class-four-modalities": {"num_classes": 1, "in_channels": 4, "intensity": "zscore", "lora_rank": 2},
        "two-classes-three-slices-coronal": {
            "num_classes": 2, "slice_context": 1, "plane": "coronal", "intensity": "window", "intensity_upper": 200,
        },
        "thirteen-classes-full": {
            "num_classes": 13, "tuning": "full", "multiclass_box": "per_class", "n_iters": 3, "use_checkpoint": True,
            "dropout": 0.1, "empty_slices": 0.5,
        },
        "frozen-amp-accumulation": {
            "tuning": "frozen", "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "temperature": 2.0,
            "kd_direction": "student_teacher", "detach_teacher": False, "y0_weight": 0.5, "empty_policy": "full",
        },
    },
    frozen=_in_sams_encoder,
    learns="mask_decoder.output_upscaling.0.weight",
    trained_file="tasks/main.pt",
    misfit=({"num_classes": 2}, "mask_decoder.mask_tokens.weight is 4"),
    fit={"max_epochs": 4},
    data="datalist_tissue.json",
    prompt_source="self",
    card="--sam_type vit_tiny --image_size 64 --num_workers 0 --max_epochs 4 --batch_size 4",
    card_weights=_sam_vit_b,
    guide="recipes_sam_sp.md",
)  # fmt: skip
DESAM = Profile(
    name="desam",
    tiny={
        "sam_type": "vit_tiny", "image_size": 64, "in_channels": 1, "num_classes": 1, "grid": 3, "iou_thresh": 0.0,
        "learning_rate": 0.001, **SMALL,
    },
    variants={
        "one-class-four-modalities-whole-box": {
            "num_classes": 1, "in_channels": 4, "intensity": "zscore", "mode": "box",
        },
        "two-classes-three-slices-coronal": {
            "num_classes": 2, "slice_context": 1, "plane": "coronal", "intensity": "window", "intensity_upper": 200,
            "selection": "vote",
        },
        "thirteen-classes-full": {
            "num_classes": 13, "tuning": "full", "use_checkpoint": True, "empty_slices": 0.5, "selection": "official",
            "dropout": 0.1, "min_region": 4,
        },
        "stored-amp-accumulation": {
            "embedding_cache": "disk", "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "iou_loss": "l1",
        },
    },
    frozen=_in_sams_frozen_parts,
    learns="mask_decoder.pimm.seg_outputs.1.weight",
    trained_file="tasks/main.pt",
    misfit=({"num_classes": 3}, "mask_decoder.pimm.seg_outputs"),
    fit={"max_epochs": 4},
    data="datalist_tissue.json",
    prompt_source="self",
    card="--sam_type vit_tiny --image_size 64 --grid 3 --iou_thresh 0.0 --num_workers 0 --max_epochs 4 --batch_size 4",
    card_weights=_sam_vit_b,
    export="--grid 3",
    guide="recipes_desam.md",
)  # fmt: skip
SAMORA = Profile(
    name="samora",
    tiny={
        "sam_type": "vit_tiny", "image_size": 64, "in_channels": 1, "num_classes": 1, "hl_dim": 12, "hl_blocks": [2],
        "learning_rate": 0.005, **SMALL,
    },
    variants={
        "one-class-four-modalities-two-experts": {
            "num_classes": 1, "in_channels": 4, "intensity": "zscore", "experts": ["image", "pixel"], "lora_rank": 2,
        },
        "two-classes-three-slices-coronal": {
            "num_classes": 2, "slice_context": 1, "plane": "coronal", "intensity": "window", "intensity_upper": 200,
            "experts": ["patch"],
        },
        "thirteen-classes-delta-few-slices": {
            "num_classes": 13, "use_checkpoint": True, "empty_slices": 0.5, "expert_signal": "delta", "hl_norm": True,
            "hl_scope": "window", "label_fraction": 0.5, "split_by": "slice", "metric_convention": "samed",
            "decoder": "hsam", "dropout": 0.1,
        },
        "amp-accumulation": {
            "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "train_prompt_encoder": True, "hl_blocks": None,
            "hl_out_proj": True, "hl_residual": True, "hl_zero_init": False,
        },
    },
    frozen=_in_sams_encoder,
    learns="mask_decoder.output_upscaling.0.weight",
    trained_file="tasks/main.safetensors",
    misfit=({"num_classes": 3}, "mask_decoder.mask_tokens.weight is 2"),
    fit={"max_epochs": 4},
    data="datalist_tissue.json",
    card="--sam_type vit_tiny --image_size 64 --hl_dim 12 --hl_blocks [2] --num_workers 0 --max_epochs 4",
    card_weights=_samora_files,
    guide="recipes_samora.md",
)  # fmt: skip
# it matches points and has no labels, so its tests are its own; see test_anatomical_embedding_runs.py
ANATOMICAL_EMBEDDING = Profile(
    name="anatomical_embedding",
    tiny={
        "base_channels": 2, "embedding_dim": 4, "patch_size": [8, 32, 32], "spacing": 4.0, "intensity": "percentile",
        "intensity_lower": 0.2, "intensity_upper": 99.8, "body_threshold": 0.05, "pairs_per_scan": 8, "val_points": 20,
        "warmup_steps": 2, "num_positives": 16, "local_candidates": 100, "local_negatives": 40, **SMALL,
        "batch_size": 2,
    },
    variants={},
    frozen=lambda name: False,
    learns="encoder.stem.conv.weight",
    trained_file="trained.pt",
    misfit=({"base_channels": 4}, "encoder.stem.conv.weight is 2"),
    guide="recipes_anatomical_embedding.md",
)  # fmt: skip
# it registers pairs, so its tests are its own, too; see test_anatomical_registration_runs.py
ANATOMICAL_REGISTRATION = Profile(
    name="anatomical_registration",
    tiny={
        "base_channels": 2, "embedding_dim": 4, "encoder_channels": [4, 6, 6, 6],
        "decoder_channels": [6, 6, 6, 6], "final_channels": [4], "integration_steps": 3, "spacing": 6.0,
        "intensity": "percentile", "intensity_lower": 0.2, "intensity_upper": 99.8, "body_threshold": 0.05,
        "prealign": "center", "pairs_per_epoch": 3, "sim_points": 20, "learning_rate": 0.01,
        "untrained_embedder": True, **SMALL, "batch_size": 1,
    },
    variants={},
    frozen=lambda name: name.startswith("embedder."),
    learns="registration.encoder.0.weight",
    trained_file="registration.safetensors",
    misfit=({"base_channels": 4}, "embedder.encoder.stem.conv.weight is 2"),
    guide="registration.md",
)  # fmt: skip
PROFILES = {profile.name: profile for profile in (SAM2_UNET, SAM_SP, DESAM, SAMORA)}
ALL_PROFILES = {**PROFILES, **{p.name: p for p in (ANATOMICAL_EMBEDDING, ANATOMICAL_REGISTRATION)}}
