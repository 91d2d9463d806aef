"""Pictures that a drawing is conditioned on, beside its words and its people. Values; imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from pulid_generate.request.conditions.control_picture import ControlUse
from pulid_generate.request.conditions.reference_picture import ReferencePicture


@dataclass(frozen=True, eq=False)
class Conditions:
    """None of them is drawn over: that is a `StartPicture`."""

    # What Kontext reads beside the picture
    references: tuple[ReferencePicture, ...] = ()
    # What ControlNets read
    controls: tuple[ControlUse, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.references or self.controls)

    @property
    def reference_tokens(self) -> int:
        return sum(reference.tokens for reference in self.references)


NO_CONDITIONS = Conditions()
