"""CLIP-L: ids of a prompt -> the pooled vector that conditions Flux.

Sizes come from the tensors; what tensors cannot tell is a constant below. Knows no tokenizer, and
nothing of Flux or of pictures.

Source: openai/clip-vit-large-patch14 config.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header
from pulid_generate.files.layouts import CLIP_MARKER, TEXT_HEAD_WIDTH
from pulid_generate.files.storage import depth_of
from pulid_generate.models.t5 import check_ids
from pulid_generate.models.tensor_files import incomplete, load_strictly, read_tensors
from pulid_generate.networks.clip import ClipTextTower


class ClipText:
    """CLIP-L's text tower."""

    def __init__(self, model: ClipTextTower):
        self.model = model

    @classmethod
    def load(
        cls, header: Header, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> ClipText:
        """From clip_l.safetensors or what else holds the tower. Raises CheckpointError."""
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
            sizes = {
                "rows": rows,
                "width": width,
                "inner": state["encoder.layers.0.mlp.fc1.weight"].shape[0],
                "depth": depth_of(state, "encoder.layers"),
                "heads": width // TEXT_HEAD_WIDTH,
                "positions": state["embeddings.position_embedding.weight"].shape[0],
            }
        except KeyError as error:
            raise incomplete(header, error.args[0]) from None
        # this model has no buffers, so nothing stays on meta after a strict load
        with torch.device("meta"):
            model = ClipTextTower(**sizes)
        load_strictly(model, state, header)
        return cls(model)

    def encode(self, ids: Sequence[int]) -> Tensor:
        """The pooled vector (1, width) of a prompt's 77 ids. Raises CheckpointError for ids of
        another vocabulary.
        """
        batch = torch.tensor([list(ids)])
        check_ids(batch, self.model.rows, "CLIP")
        return self.model(batch.to(self.model.device))
