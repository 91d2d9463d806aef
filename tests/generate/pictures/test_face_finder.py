"""Faces by `pulid-extract worker` as a program: the real one on a small world, and a fake one for
how it can fail.
"""

from __future__ import annotations

import pytest
from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import GREEN, GROUP, RED, picture, png

from pulid_generate.errors import PackageError, ScoringError
from pulid_generate.pictures import scorer
from pulid_generate.pictures.face_finder import FaceFinder


@pytest.fixture
def finder():
    found = FaceFinder(models_folder())
    yield found
    found.close()


def test_the_real_program(finder, tmp_path):
    finder.check(None, None)
    me, you = png(picture((2, 2, RED))), png(picture((15, 6, GREEN)))
    large, small = finder.find(picture(*GROUP), None, None, {"me": [me], "you": [you, you]})
    assert large.area > small.area
    assert 0 < small.score <= 1
    # the same face, alone
    assert large.likeness["me"] == pytest.approx(1, abs=0.05)
    assert small.likeness["you"] == pytest.approx(1, abs=0.05)
    assert large.likeness["you"] < 0.9
    # the same process, a picture without a face, nobody to look for
    assert finder.find(picture(), None, None, {"nobody": []}) == []
    assert finder.find(picture(*GROUP), None, None, {})[0].likeness == {}
    # another folder is another process, and one that has no networks says so in its own words
    with pytest.raises(ScoringError, match=r"no \.onnx files"):
        finder.find(picture(), str(tmp_path), None, {})


FAILURES = {
    "dies": ("sys.exit(3)", "pulid-extract worker: ended without an answer"),
    "dies with a reason": (
        "say('pulid-extract: error: no antelopev2'); sys.exit(1)",
        "pulid-extract worker: no antelopev2",
    ),
    "gives another answer": ("sys.stdin.readline(); print('hello', flush=True)", "not its JSON"),
    "gives no faces": (
        "sys.stdin.readline(); print(json.dumps({'status': 'done'}), flush=True)",
        "an answer that is not a list of faces",
    ),
    "gives strange faces": (
        "sys.stdin.readline(); print(json.dumps({'status': 'done', 'faces': [{}]}), flush=True)",
        "an answer that is not a list of faces",
    ),
    "cannot": (
        "sys.stdin.readline(); print(json.dumps({'status': 'failed', 'error': 'why'}), flush=True)",
        "^why$",
    ),
}


@pytest.mark.parametrize(("body", "words"), FAILURES.values(), ids=FAILURES)
def test_a_program_that_cannot_answer_is_one_line(fake, body, words):
    fake(body)
    finder = FaceFinder()
    with pytest.raises(ScoringError, match=words):
        finder.find(picture(), None, None, {})
    finder.close()


def test_a_program_that_ended_between_two_pictures_is_started_again(fake):
    fake(
        "sys.stdin.readline(); "
        "print(json.dumps({'status': 'done', 'faces': [{'box': [1, 2, 3, 4], 'score': 0.9}]}), "
        "flush=True)"
    )
    finder = FaceFinder()
    first = finder.find(picture(), None, None, {})
    assert [face.box for face in first] == [(1, 2, 3, 4)]
    for process in finder._processes.values():
        process._child.wait(60)
    assert finder.find(picture(), None, None, {}) == first
    finder.close()


def test_no_program_is_said_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(scorer, "LIBRARIES", ("no_such_library_anywhere",))
    monkeypatch.setenv("PATH", str(tmp_path))
    finder = FaceFinder()
    # for the second picture as for the first
    for _ in range(2):
        with pytest.raises(PackageError, match="faces of --ad-model are found by pulid-extract"):
            finder.check(None, None)
