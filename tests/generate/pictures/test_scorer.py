"""Scores by `pulid-extract score` as a program: the real one on a small world, and a fake one for
how it can fail.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models_folder
from support.pictures.coloured_faces import GREEN, RED, picture

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.errors import InputError, PackageError, ScoringError
from pulid_generate.pictures import scorer as likeness
from pulid_generate.pictures.score_lines import Pose, Recognizer, Score
from pulid_generate.pictures.scorer import Scorer


def scores(pictures, references, **options) -> list[Score]:
    return list(Scorer(references=references, **options).scores(pictures))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    patches = {
        "me": ((2, 2, RED),),
        "-again": ((2, 2, RED), (15, 6, GREEN)),
        "other": ((9, 10, GREEN),),
        "nobody": (),
    }
    for name, places in patches.items():
        Image.fromarray(picture(*places)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_the_real_program(photos, monkeypatch):
    monkeypatch.chdir(photos)
    said: list[str] = []
    scorer = Scorer(
        references=["me.png"], strangers=["other.png"], models_dir=models_folder(), log=said.append
    )
    judges, [own] = scorer.check()
    [judge] = judges.recognizers
    assert judges.prompt is None
    assert (judge.name, len(judge.sha256), judge.own) == ("glintr100.onnx", 64, True)
    assert own.likeness == 1.0
    assert own.stranger is not None
    assert own.stranger < 0.5
    assert any("conditioned on" in line for line in said)
    again, nobody, broken, other = scorer.scores(
        ["-again.png", photos / "nobody.png", "broken.png", "other.png"]
    )
    assert (again.status, again.likeness, again.faces, again.stranger) == (
        "ok",
        1.0,
        2,
        own.stranger,
    )
    assert again.box is not None
    assert (nobody.status, nobody.likeness, nobody.cosines, nobody.faces) == (
        "no face",
        None,
        (),
        0,
    )
    assert (broken.status, broken.likeness) == ("failed", None)
    assert "broken.png" in (broken.error or "")
    assert (other.stranger, other.likeness) == (1.0, own.stranger)


def test_scores_by_another_network_than_made_the_person_are_noted():
    made, judge = "a" * 64, Recognizer("glintr100.onnx", "b" * 64, own=True)
    person = Embedding(np.ones((1, 2)), provenance={"recognizer.sha256": made}, source="me")
    assert "me was made with another face recogniser" in judge.note_on(person)
    # its own; a judge that was asked for; a file that does not say
    for silent, whom in (
        (replace(judge, sha256=made), person),
        (replace(judge, own=False), person),
        (judge, replace(person, provenance={})),
    ):
        assert silent.note_on(whom) == ""


def test_who_stops_early_leaves_no_program_and_no_trace(fake, monkeypatch):
    """As a signal does: the program is ended before its streams are closed, so that who passes its
    lines on does not read a closed one.
    """
    fake("likeness(1.0)\nwhile True: say('still here')")
    stray: list[object] = []
    monkeypatch.setattr(threading, "excepthook", stray.append)
    said: list[str] = []
    scores = Scorer(references=["me.png"], log=said.append).scores(["a.png"])
    assert next(scores).likeness == 1.0
    scores.close()
    assert stray == []
    assert set(said) <= {"still here"}


def test_a_ctrl_c_of_the_terminal_does_not_reach_it(fake):
    """Or what Python says of one in its first tenth of a second would be passed on."""
    fake("say(f'in front of {os.getsid(0)}')\nlikeness(1.0)")
    said: list[str] = []
    [score] = Scorer(references=["me.png"], log=said.append).scores(["a.png"])
    assert score.likeness == 1.0
    [line] = said
    assert line.startswith("in front of ")
    assert line != f"in front of {os.getsid(0)}"


@pytest.mark.slow
def test_what_the_real_program_refuses_is_its_own_line(photos):
    scorer = Scorer(references=[photos / "nobody.png"], models_dir=models_folder())
    with pytest.raises(
        ScoringError, match=r"^pulid-extract score: .*nobody.png: no face found in this reference"
    ) as caught:
        scorer.check()
    assert "error:" not in str(caught.value)
    with pytest.raises(ScoringError, match=r"none.onnx: cannot be read"):
        Scorer(
            references=[photos / "me.png"],
            models_dir=models_folder(),
            recognizers=[photos / "none.onnx"],
        ).check()


def test_the_command_line(fake, tmp_path):
    fake("open(os.environ['SEEN'], 'w').write(json.dumps(sys.argv[1:]))\nprint(json.dumps(line))\n")
    os.environ["SEEN"] = str(tmp_path / "seen.json")
    try:
        [score] = scores(
            ["-a.png"],
            ["-me.png", "me too.png"],
            strangers=["you.png"],
            models_dir="models",
            truths=["me2.png"],
            recognizers=["own.onnx", "antelopev2"],
            # of no use without `judges_prompts`
            prompt_judge="clip.onnx",
            antelopev2="pack",
            det_threshold=0.4,
        )
    finally:
        del os.environ["SEEN"]
    assert score == Score("ok", 0.5, (0.5,), by_each=(0.5,), faces=1, box=(1, 2, 3, 4))
    given = json.loads((tmp_path / "seen.json").read_text())
    references = ["--reference=-me.png", "--reference=me too.png", "--stranger=you.png"]
    references += ["--truth=me2.png", "--recognizer=own.onnx", "--recognizer=antelopev2"]
    options = [
        "--models-dir=models",
        "--antelopev2=pack",
        "--det-threshold=0.4",
    ]
    assert given == ["score", "--json", *references, *options, "--", str(Path.cwd() / "-a.png")]
    fake(
        "sys.exit('none of these' if any(word.startswith('--mod') for word in sys.argv) else "
        "print(json.dumps(line)))\n"
    )
    assert len(scores(["a.png"], ["me.png"])) == 1  # what is not given is not passed on


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print(json.dumps(line)); sys.exit(1)", "failed with exit code 1 and no message"),
        (
            "say('a note'); say('pulid-extract: error: no room'); sys.exit(1)",
            "^pulid-extract score: no room$",
        ),
        (
            "say('Traceback (most recent call last):'); say('KeyError: 1'); sys.exit(1)",
            "score: KeyError: 1$",
        ),
        ("say('No such command'); sys.exit(2)", "score: No such command$"),
        (
            "print(json.dumps(line), flush=True); os.kill(os.getpid(), 9)",
            "killed by signal 9 after 1 of 2 pictures",
        ),
        ("print(json.dumps(line))", "answered for 1 of 2 pictures"),
        ("print('likeness 0.5')", "answered 'likeness 0.5', expected a line of its JSON"),
        ("print('[]')", "expected a line of its JSON"),
        ("line['status'] = 'perhaps'; print(json.dumps(line))", "expected a line of its JSON"),
        ("del line['recognizers']; print(json.dumps(line))", "expected a line of its JSON"),
        ("print('[' * 100_000)", "expected a line of its JSON"),
        ("tell(likeness='0.5')", "expected a line of its JSON"),
        ("tell(likeness=10**39)", "expected a line of its JSON"),
        ("tell(likeness=float('nan'))", "expected a line of its JSON"),
        ("tell(box=[1, 2, 3, 1e30])", "expected a line of its JSON"),
        ("tell(faces={})", "expected a line of its JSON"),
        ("tell(pose={'yaw': 1, 'pitch': 2})", "expected a line of its JSON"),
        ("tell(prompt_score=1e9)", "expected a line of its JSON"),
        ("tell(copy_paste='much')", "expected a line of its JSON"),
    ],
)
def test_a_program_that_fails_is_one_line(body, message, fake):
    fake(body)
    with pytest.raises(ScoringError, match=message):
        scores(["a.png", "b.png"], ["me.png"])


def test_prompts_go_by_a_file_that_nobody_else_reads_and_nothing_is_fetched(fake):
    fake("""
[file] = [word.split("=", 1)[1] for word in sys.argv if word.startswith("--prompts=")]
lines = open(file).read().splitlines()
hidden = os.stat(os.path.dirname(file)).st_mode & 0o77 == 0
for picture, text in zip(pictures, lines, strict=True):
    tell(prompt_score=len(text) if hidden and "--prompt-judge=clip.onnx" in sys.argv else -1.0,
         prompt_judge={"name": os.environ["HF_HUB_OFFLINE"], "sha256": file},
         pose={"yaw": 1.0, "pitch": 2.0, "roll": 3.0})
""")
    scorer = Scorer(
        references=["me.png"], judges_prompts=True, prompt_judge="clip.onnx", is_offline=True
    )
    found = list(scorer.scores(["a.png", "b.png"], ["a cat", "a\ncow "]))
    assert [score.prompt for score in found] == [5, 5]
    assert found[0].pose == Pose(1.0, 2.0, 3.0)
    judges, _ = scorer.check()
    assert judges.prompt is not None
    assert judges.prompt.name == "1"
    assert not Path(judges.prompt.sha256).exists()


def test_pictures_that_cannot_be_read_are_no_failure_of_the_program(fake):
    fake(
        "line |= {'status': 'failed', 'likeness': None, 'box': None}\nprint(json.dumps(line)); "
        "say('1 of 1'); sys.exit(1)\n"
    )
    assert scores(["a.png"], ["me.png"])[0].status == "failed"


def test_what_it_says_is_passed_on_while_it_works(fake):
    fake("say('fetching'); say(''); say('pulid-extract: error: broken'); sys.exit(1)\n")
    said: list[str] = []
    with pytest.raises(ScoringError, match="broken"):
        scores(["a.png"], ["me.png"], log=said.append)
    assert said == ["fetching"]


def test_many_pictures_are_several_calls(fake, monkeypatch):
    fake(
        "[print(json.dumps(line | {'faces': len(sys.argv)})) for word in "
        "sys.argv[sys.argv.index('--') + 1:]]\n"
    )
    monkeypatch.setattr(likeness, "AT_ONCE", 2)
    assert [score.faces for score in scores(list("abcde"), ["me.png"])] == [7, 7, 7, 7, 6]
    assert scores([], ["me.png"]) == []


def test_no_program_and_no_reference_are_said_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(likeness, "LIBRARIES", ("no_such_library_anywhere",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="pulid-extract, which is not installed"):
        Scorer(references=["me.png"]).check()
    with pytest.raises(InputError, match="need a reference"):
        Scorer(references=[])
    with pytest.raises(InputError, match="reference -"):
        Scorer(references=["me.png"], strangers=["-"])
