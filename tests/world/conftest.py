"""What the tests of the small world share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def painter(tmp_path):
    """An untrained painter, with the words of two prompts."""
    from micro_world.networks import painter, reader

    prompts = np.array(
        [
            [
                "a portrait of a person, smiling, in a red shirt, on a blue background",
                "a sad person with a cap",
            ]
        ]
    )
    words = reader.Words(tmp_path, prompts)
    return painter.Painter(reader.Lessons(words)).eval(), words
