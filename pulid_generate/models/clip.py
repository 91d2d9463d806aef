"""CLIP-L: ids of a prompt -> the pooled vector that conditions Flux.

Sizes come from the tensors; what tensors cannot tell is a constant below. Knows no tokenizer, and
nothing of Flux or of pictures.

Source: openai/clip-vit-large-patch14 config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.layouts import CLIP_MARKER, TEXT_HEAD_WIDTH
from pulid_generate.files.storage import depth_of
from pulid_generate.models.t5 import check_ids
from pulid_generate.models.tensor_files import load_strictly, read_tensors

PREFIX = "text_model."


class ClipText:
    """CLIP-L's text tower."""

    def __init__(self, model: Any):
        self.model = model

    @classmethod
    def load(
        cls, header: Header, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> ClipText:
        """From clip_l.safetensors or what else holds the tower. Raises CheckpointError."""
        from transformers import CLIPTextConfig, CLIPTextModel

        # not part of the tower: a buffer of old exports, and the projection heads of other ones
        extras = (
            "embeddings.position_ids",
            "logit_scale",
            "text_projection",
            "text_projection.weight",
        )
        state = dict(read_tensors(header, CLIP_MARKER, device, dtype, skip=extras))
        try:
            rows, width = state[CLIP_MARKER[0]].shape
            config = CLIPTextConfig(
                vocab_size=rows,
                hidden_size=width,
                intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
                num_hidden_layers=depth_of(state, "encoder.layers"),
                num_attention_heads=width // TEXT_HEAD_WIDTH,
                max_position_embeddings=state["embeddings.position_embedding.weight"].shape[0],
                hidden_act="quick_gelu",
                layer_norm_eps=1e-5,
                projection_dim=width,
                bos_token_id=0,
                # 2 makes transformers pool at the largest id, the end token, as the original does
                eos_token_id=2,
                pad_token_id=1,
            )
        except KeyError as error:
            raise CheckpointError(
                f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again"
            ) from None
        with torch.device("meta"):
            model = CLIPTextModel(config)
        # transformers 5 dropped the `text_model.` prefix of this class; follow the class that is
        # installed
        if any(name.startswith(PREFIX) for name in model.state_dict()):
            state = {PREFIX + name: tensor for name, tensor in state.items()}
        load_strictly(model, state, header)
        # a buffer built on meta stays there, and indexing with it gives wrong states without an
        # error
        for module in model.modules():
            if "position_ids" in dict(module.named_buffers(recurse=False)):
                positions = torch.arange(config.max_position_embeddings, device=device)[None]
                module.register_buffer("position_ids", positions, persistent=False)
        return cls(model)

    def encode(self, ids: Sequence[int]) -> Tensor:
        """The pooled vector (1, width) of a prompt's 77 ids. Raises CheckpointError for ids of
        another vocabulary.
        """
        batch = torch.tensor([list(ids)])
        check_ids(batch, self.model.config.vocab_size, "CLIP")
        return self.model(batch.to(self.model.device)).pooler_output
