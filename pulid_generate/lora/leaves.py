"""What the end of a tensor's name says in a LoRA file, and what a file is that cannot be applied.
Tables. Imports no torch.

Sources: kohya-ss/sd-scripts networks/lora_flux.py; huggingface/peft src/peft/tuners/lora/layer.py
(the adapter's name stands between lora_A and weight; lora_bias); KohakuBlueleaf/LyCORIS
lycoris/modules/{loha,lokr}.py; ComfyUI comfy/lora.py (diff_b); Nerogar/OneTrainer
modules/modelSaver (bundle_emb).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# peft's name of an adapter: "default", "default_0", or what its maker called it
ADAPTER = r"(?:\.[\w-]+)?"
# what a tensor is of its layer's change -> ends of names, as patterns
LEAVES = {
    "down": (
        r"lora_down\.weight",
        rf"lora_A{ADAPTER}\.weight",
        r"lora\.down\.weight",
        r"lora_linear_layer\.down\.weight",
        r"down\.weight",
    ),
    "up": (
        r"lora_up\.weight",
        rf"lora_B{ADAPTER}\.weight",
        r"lora\.up\.weight",
        r"lora_linear_layer\.up\.weight",
        r"up\.weight",
    ),
    "alpha": (r"alpha",),
    # LoHa
    "hada_w1_a": (r"hada_w1_a",),
    "hada_w1_b": (r"hada_w1_b",),
    "hada_w2_a": (r"hada_w2_a",),
    "hada_w2_b": (r"hada_w2_b",),
    # LoKr: each factor whole, or as a product of two
    "lokr_w1": (r"lokr_w1",),
    "lokr_w1_a": (r"lokr_w1_a",),
    "lokr_w1_b": (r"lokr_w1_b",),
    "lokr_w2": (r"lokr_w2",),
    "lokr_w2_a": (r"lokr_w2_a",),
    "lokr_w2_b": (r"lokr_w2_b",),
    # DoRA
    "magnitude": (r"dora_scale", rf"lora_magnitude_vector{ADAPTER}(?:\.weight)?"),
    # of the layer's bias: scaled as the matrices are, and as it is
    "up_bias": (rf"lora_B{ADAPTER}\.bias", r"lora_up\.bias"),
    "bias": (r"diff_b",),
}
LORA = ("down", "up")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
MATRICES = frozenset((*LORA, *LOHA, *LOKR))

UNET_BLOCKS = "input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block"
# What cannot be added to the linear layers of Flux: pattern in a tensor's name -> what the file is
REFUSED = (
    (r"\.(lora_mid|hada_t|lokr_t)", "a LoCon with a middle matrix"),
    (r"\.(oft_|boft_)", "an OFT"),
    (r"\.(w_norm|b_norm)$", "a LyCORIS with trained norms"),
    (r"\.(glora_|a1\.weight|b1\.weight)", "a GLoRA"),
    (r"lora_controlnet|^control_model", "a ControlNet"),
    (rf"(^|unet[._])({UNET_BLOCKS})[._].*lora", "a LoRA for SD 1.5 or SDXL"),
    (rf"^lora_unet_({UNET_BLOCKS})_", "a LoRA for SD 1.5 or SDXL"),
    (r"joint_blocks[._].*lora", "a LoRA for SD 3"),
    (r"^lora_unet_joint_blocks_", "a LoRA for SD 3"),
    (r"double_stream_modulation", "a LoRA for FLUX.2"),
    (r"distilled_guidance_layer", "a LoRA for Chroma"),
)
# beside its matrices it has norms, and a wider img_in; whole models have norms as well
CONTROL = (r"norm\.(query|key)_norm\.scale$", "a control LoRA, FLUX.1 Canny or Depth")
# What a tensor is that is no part of a linear layer's change: pattern in its name -> in words
OTHERS = (
    (
        r"^bundle_emb\.",
        "is an embedding for a word of the prompt (textual inversion), which OneTrainer put beside "
        "the LoRA; such words are not read here, save the LoRA without its embeddings",
    ),
    (r"\.diff$", "is a whole difference of a weight, and no low-rank product"),
    (r"\.diff_b$", "is a difference of the bias of a layer whose weight stays"),
)

_LEAF = {
    kind: re.compile(rf"(?P<layer>.+?)\.(?:{'|'.join(ends)})") for kind, ends in LEAVES.items()
}


def grouped(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(layer -> {what a tensor is: its name}, the names that are none of these).

    Raises ValueError, naming the tensor, for two that are the same of one layer.
    """
    groups: dict[str, dict[str, str]] = {}
    others = []
    for name in sorted(names):
        kind, layer = _kind_of(name)
        if kind is None:
            others.append(name)
            continue
        group = groups.setdefault(layer, {})
        if kind in group:
            raise ValueError(f"{group[kind]} and {name} are the same of one layer")
        group[kind] = name
    return groups, others


def _kind_of(name: str) -> tuple[str | None, str]:
    for kind, pattern in _LEAF.items():
        match = pattern.fullmatch(name)
        if match:
            return kind, match["layer"]
    return None, ""


def refusal_of(names: Iterable[str], table: Iterable[tuple[str, str]] = REFUSED) -> str | None:
    """What a file is whose tensors cannot be applied, with the name that says so; None for one that
    may be a LoRA for Flux. table: what is looked for.
    """
    for pattern, what in table:
        for name in names:
            if re.search(pattern, name):
                return f"{what} ({name})"
    return None


def meaning_of(name: str) -> str:
    """What a tensor is that belongs to no linear layer's change, as an end of a sentence."""
    for pattern, what in OTHERS:
        if re.search(pattern, name):
            return what
    return "is not part of a LoRA"
