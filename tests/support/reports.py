"""A small validation and its report, for tests of what is said of it."""

from __future__ import annotations

from pulid_generate.pictures.score_lines import Judges, Recognizer
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    WITHOUT,
    KnownPicture,
    Report,
    Shot,
    ValidatedIdentity,
)

A, B = Trial("a", "pose", "a cat"), Trial("b", "light", "a <dog>")
SHOTS = (
    Shot(A, 1, PERSON, "1.png", "s", "ok", 0.8, 0.1, 1, 12.0),
    Shot(A, 1, WITHOUT, "2.png", "s", "ok", 0.1, 0.0, 1),
    Shot(B, 1, PERSON, "3.png", "s", "ok", 0.2, 0.3, 4, 20.0),
    Shot(B, 1, WITHOUT, "4.png", "s", "ok", 0.3, 0.0, 1),
    Shot(B, 2, PERSON, "5.png", "s", "no face", moved=8.0),
    Shot(B, 2, WITHOUT, "6.png", "s", "ok", -0.2, 0.0, 1),
    Shot(A, 2, PERSON, "7.png", error="no memory"),
    Shot(A, 2, WITHOUT, "8.png", "s", "unreadable"),
)


def report(*shots: Shot, **more) -> Report:
    facts = {
        "tool": "test",
        "created": "2026-11-29T16:00:00+00:00",
        "command": "pulid-generate validate --reference <me>.jpg",
        "identity": ValidatedIdentity("me.pulidembd", "id", 1.0),
        "references": [KnownPicture("me", "r", 1.0)],
        "strangers": [],
        "judges": Judges((Recognizer("own.onnx", "j", own=False),)),
        "settings": {},
    }
    return Report(**(facts | more), shots=shots)
