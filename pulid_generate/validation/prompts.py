"""What an identity is tried with: a dozen prompts of six aspects. All say "a person", so that the
controls are about as free as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One prompt."""

    # unique, fit for a file name
    name: str
    # what it makes hard
    aspect: str
    text: str

    @property
    def asks_for_pose(self) -> bool:
        """Whether how the head turns is counted; of somebody's own prompts nobody knows, so all
        of them are.
        """
        return self.aspect in (POSE, OWN)


POSE, OWN = "pose", "own"
TRIALS = (
    Trial(
        "front",
        POSE,
        "studio photograph of a person looking straight into the camera, plain grey background",
    ),
    Trial(
        "over-shoulder",
        POSE,
        "photograph of a person laughing and looking back over the shoulder, three-quarter "
        "view, city street",
    ),
    Trial(
        "profile",
        POSE,
        "side view photograph of a person in profile, looking out of a train window",
    ),
    Trial(
        "campfire",
        "light",
        "photograph of a person at night, the face lit from below by a campfire",
    ),
    Trial(
        "backlight",
        "light",
        "photograph of a person against the low sun on a beach, the face in shadow, lens flare",
    ),
    Trial(
        "young",
        "age",
        "photograph of a person at the age of twenty, reading in a university library",
    ),
    Trial(
        "old",
        "age",
        "photograph of a person at the age of eighty, white hair and wrinkles, sitting in a garden",
    ),
    Trial(
        "oil-painting",
        "style",
        "oil painting of a person in the manner of the old Dutch masters, dark background",
    ),
    Trial("ink", "style", "black ink drawing of a person on white paper, fine hatching"),
    Trial(
        "sunglasses",
        "occlusion",
        "close-up photograph of a person wearing dark sunglasses and a wide hat",
    ),
    Trial(
        "scarf",
        "occlusion",
        "photograph of a person in a snowstorm, mouth and chin behind a thick scarf",
    ),
    Trial(
        "crowd",
        "crowd",
        "photograph of a person in the middle of a crowd at an open-air concert, other "
        "faces all around",
    ),
)

# for the demo's models, which know portraits in these words and no others (docs/micro_world.md)
SMALL_WORLD = "small-world"
SMALL_WORLD_TRIALS = (
    Trial("tilted", POSE, "a portrait of a person, with a tilted head, in a green shirt"),
    Trial("smiling", "expression", "a portrait of a person, smiling, on a blue background"),
    Trial("surprised", "expression", "a portrait of a person, surprised, on a green background"),
    Trial("sad", "expression", "a portrait of a person, sad, in a grey shirt"),
    Trial("red-shirt", "clothes", "a portrait of a person, calm, in a red shirt"),
    Trial("top-hat", "occlusion", "a portrait of a person, with a top hat, in a yellow shirt"),
    Trial("glasses", "occlusion", "a portrait of a person, with glasses, on an orange background"),
)


def own_trials(lines: list[tuple[int, str]]) -> tuple[Trial, ...]:
    """Trials of (line number, prompt) of somebody's own file."""
    return tuple(Trial(f"line-{number}", OWN, text) for number, text in lines)
