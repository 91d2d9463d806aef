"""pulid-generate validate through the command line, on the micro models; scores by a fake program, and once by the real one."""

from __future__ import annotations

import io
import json
import re
import shutil
import stat
from dataclasses import replace
from html.parser import HTMLParser

import astronaut
import micro_antelopev2
import numpy as np
import pytest
from fake_score import fake_fixture  # noqa: F401
from make_seeded_checkpoints import write_embedding
from PIL import Image

from pulid_generate.denoiser import Denoiser
from pulid_generate.errors import PlacementError
from pulid_generate.validation import charts
from pulid_generate.validation.page import as_page
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import PERSON, STRANGER, WITHOUT, Report, Shot, mean, number

SIZE = ("-W", 64, "-H", 48)
# by name: the person 0.7 and 0.5, and once no face; weight 0 and the stranger near 0; the reference itself 1
SCORES = """
for picture in pictures:
    name = os.path.basename(picture)
    value = {"person": 0.7 if "_1_" in name else 0.5, "0": 0.1, "stranger": -0.1}.get(name[:-4].rsplit("_", 1)[-1], 1.0)
    faceless() if name == "line-3_2_person.png" else tell(cosine=value, cosines=[value], stranger=0.05)
"""
FILES = ("report.html", "report.json", "sheet.png")
NOBODY = 'say("pulid-extract: error: me.png: no face found in this reference; give another picture"); sys.exit(1)'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def models(micro):
    return (
        *("--diffusion-model", micro / "flux1-schnell.safetensors", "--vae", micro / "ae.safetensors"),
        *("--clip_l", micro / "clip_l.safetensors", "--t5xxl", micro / "t5xxl_fp16.safetensors"),
        *("--t5-tokenizer", micro / "tokenizer.json", "--pulid-weights", micro / "pulid_flux_v0.9.1.safetensors"),
        *("--device", "cpu", "--steps", 2),
    )


@pytest.fixture
def base(models, person, tmp_path):
    """The flags of a run with two prompts, two seeds, a stranger, and somebody's portrait."""
    prompts, reference = tmp_path / "prompts.txt", tmp_path / "me & you.png"
    prompts.write_text("a cat\n\na <b>dog</b>\n")
    Image.fromarray(astronaut.portrait()).save(reference)
    stranger = write_embedding(tmp_path / "you.pulidembd", seed=6)
    return (
        *(*models, *SIZE, "--pulid-id-embedding", person, "--reference", reference, "--stranger", reference),
        *("--stranger-embedding", stranger, "--prompts", prompts, "--seeds", "1-2", "--output-dir", tmp_path / "out"),
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The pictures of `base`, once a test has drawn them."""
    return tmp_path_factory.mktemp("earlier") / "pictures"


@pytest.fixture
def drawn(base, earlier, generate, fake, tmp_path):
    """The flags of a run whose pictures are there already."""
    if not earlier.exists():
        fake(SCORES)
        done = generate("validate", *base)
        assert done.code == 0, done.err
        shutil.copytree(tmp_path / "out" / "pictures", earlier)
    else:
        shutil.copytree(earlier, tmp_path / "out" / "pictures")
    return (*base, "--resume")


# ---------------------------------------------------------------------------------------------------------------- the whole command


def test_a_validation(generate, drawn, models, person, fake, tmp_path):
    fake(SCORES)
    done = generate("validate", *drawn)
    assert done.code == 0, done.err
    folder = tmp_path / "out"
    report = json.loads((folder / "report.json").read_text())
    assert report["version"] == 1
    assert report["similarity"] == pytest.approx((0.7 + 0.5 + 0.7 + 0) / 4)  # without a face: 0
    assert (report["passed"], report["min_similarity"]) == (None, None)
    assert report["closer_than_weight_0"] == {"pairs": 4, "closer": 3}
    runs = report["runs"]
    assert list(runs) == ["person", "weight_0", "stranger"]
    assert [runs[run]["similarity"] for run in runs] == [0.475, 0.1, -0.1]
    assert (runs["person"]["without_face"], runs["person"]["with_face"], runs["person"]["of_faces"]) == (1, 3, 0.6333)
    assert runs["person"]["moved"] > 0
    assert runs["weight_0"]["moved"] is None
    assert report["recognizer"] == {"name": "glintr100.onnx", "sha256": "ab" * 32, "own": True}
    assert report["settings"]["models"]["flux"] == "flux1-schnell"
    assert report["settings"]["steps"] == 2
    assert len(report["pictures"]) == 12
    assert any("flatter" in note for note in report["notes"])
    assert any("1 of 4 of the person" in note for note in report["notes"])
    assert "No face was found" in done.err

    # the pictures are what the single command draws; weight 0 is no PuLID at all, the stranger somebody else
    for output, flags in {
        "line-1_2_person.png": ("--pulid-id-embedding", person),
        "line-1_2_weight_0.png": (),
        "line-1_2_stranger.png": ("--pulid-id-embedding", tmp_path / "you.pulidembd"),
    }.items():
        weights = models if flags else [word for word in models if "pulid" not in str(word)]
        alone = generate(*weights, *SIZE, *flags, "-p", "a cat", "-s", 2, "-o", tmp_path / "alone.png")
        assert alone.code == 0, alone.err
        assert (folder / "pictures" / output).read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert len({picture["sha256"] for picture in report["pictures"]}) == 12

    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in FILES] == [0o600] * 3
    *table, _, _, _ = lines = done.out.decode().splitlines()
    assert lines[-3:] == [str(folder / name) for name in FILES]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > sheet.width / 3 > 64  # two prompts down, three runs across
    assert table[0].split() == ["prompt", "the", "person", "weight", "0", "a", "stranger", "moved"]
    assert table[-1].split()[:4] == ["mean", "0.475", "0.100", "-0.100"]


def test_resume_draws_nothing_anew_and_json_is_the_report(generate, base, drawn, fake, monkeypatch, tmp_path):
    def fail(*arguments, **more):
        raise PlacementError("was drawn anew")

    fake(SCORES)
    monkeypatch.setattr(Denoiser, "latents", fail)
    again = generate("validate", *drawn, "--json")
    assert again.code == 0, again.err
    assert "12 skipped" in again.err
    assert json.loads(again.out) == json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert "was drawn anew" in generate("validate", *base).err  # without --resume


@pytest.mark.parametrize(("least", "code"), [(0.47, 0), (0.48, 1)])
def test_a_minimum_for_ci(least, code, generate, drawn, fake, tmp_path):
    fake(SCORES)
    done = generate("validate", *drawn, "--min-similarity", least)
    assert done.code == code
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is (code == 0)
    if code:
        assert "similarity 0.475, below --min-similarity 0.48; look at" in done.error
        assert "missed" in (tmp_path / "out" / "report.html").read_text()


def test_one_picture_that_fails_does_not_lose_the_rest(generate, base, fake, monkeypatch, tmp_path):
    fake(SCORES)
    latents = Denoiser.latents

    def sometimes(self, jobs, *arguments, **more):
        if jobs[0].seed == 2 and jobs[0].request.prompt == "a cat":
            raise PlacementError("no memory")
        return latents(self, jobs, *arguments, **more)

    monkeypatch.setattr(Denoiser, "latents", sometimes)
    done = generate("validate", *base)
    assert "3 of 12 pictures could not be drawn or scored, the report is without them" in done.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [picture["error"] for picture in report["pictures"] if picture["status"] == "failed"] == ["no memory"] * 3
    assert report["similarity"] == pytest.approx(1.4 / 3, abs=1e-4)
    assert "3 of 12 pictures could not be drawn" in " ".join(report["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("not drawn") >= 3
    assert page.count("data:image/jpeg") == 9 + 2


def test_nothing_is_drawn_for_a_reference_without_a_face(generate, base, fake, tmp_path):
    fake(NOBODY)
    assert "pulid-extract score: me.png: no face found in this reference" in generate("validate", *base).error
    assert not (tmp_path / "out" / "pictures").exists()


def test_a_reference_is_not_overwritten(generate, base, fake, tmp_path):
    fake(SCORES)
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    mine = tmp_path / "out" / "pictures" / "line-1_1_person.png"
    mine.write_bytes((tmp_path / "me & you.png").read_bytes())
    assert "line-1_1_person.png: is read as an input" in generate("validate", *base, "--reference", mine).error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--reference", "me.png"), "Missing option '--pulid-id-embedding'"),
        (("--pulid-id-embedding", "me.pulidembd"), "Missing option '--reference'"),
        (("-p", "a cat"), "--prompt is for one picture; give --prompts FILE"),
        (("-s", "7"), "--seed is for one picture; give --seeds"),
        (("-o", "a.png"), "--output is for one picture; give --output-dir"),
        (("--pulid-id-weight", "0"), "compares with weight 0 by itself"),
        (("--identity", "you.pulidembd"), "validate looks at one person"),
        (("--pulid-id-embedding", "-"), "Standard input can be read once"),
        (("--min-similarity", "2"), "--min-similarity"),
    ],
)
def test_wrong_usage(flags, message, generate):
    both = ("--pulid-id-embedding", "me.pulidembd", "--reference", "me.png")
    done = generate("validate", *(flags if message.startswith("Missing") else (*both, *flags)))
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "3-1"), "counts down"),
        (("--prompts", "none.txt"), "none.txt"),
        (("--reference", "-"), "reference -: faces are compared with files"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, message, generate, base):
    assert message in generate("validate", *base, *flags).error


def test_a_stranger_is_somebody_else(generate, base, person):
    assert "is the person; a control wants somebody else" in generate("validate", *base, "--stranger-embedding", person).error


def test_pictures_that_vanish_are_no_crash(generate, drawn, fake, tmp_path):
    """Somebody cleans up while the faces are compared."""
    gone = """
lost = [picture for picture in pictures if picture.endswith(("line-1_1_person.png", "line-3_1_weight_0.png"))]
for picture in pictures:
    if picture in lost:
        os.unlink(picture)
        tell(status="failed", cosine=None, cosines=[], faces=0, box=None, error="gone")
    else:
        cosine(0.5)
sys.exit(bool(lost))
"""
    fake(gone)
    done = generate("validate", *drawn)
    assert "2 of 12 pictures could not be drawn or scored" in done.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["runs"]["person"]["failed"] == report["runs"]["weight_0"]["failed"] == 1
    moved = {picture["output"]: picture["moved"] for picture in report["pictures"]}
    assert moved["pictures/line-1_1_person.png"] is moved["pictures/line-3_1_person.png"] is None
    assert moved["pictures/line-1_2_person.png"] > 0
    assert report["closer_than_weight_0"]["pairs"] == 2


def test_the_real_program_judges_real_faces(generate, models, person, tmp_path, monkeypatch):
    """Inpainting beside the face keeps it, redrawing all of it does not."""
    monkeypatch.chdir(tmp_path)
    micro_antelopev2.write_pack(tmp_path / "antelopev2", 0)
    Image.fromarray(astronaut.portrait()[32:224, 128:320]).resize((192, 192)).save("me.png")
    beside = np.zeros((192, 192), np.uint8)
    beside[160:] = 255
    Image.fromarray(beside).save("mask.png")
    (tmp_path / "one.txt").write_text("a person")
    flags = (
        *models,
        "--pulid-id-embedding",
        person,
        "--reference",
        "me.png",
        "--antelopev2",
        "antelopev2",
        "--prompts",
        "one.txt",
    )
    start = ("--steps", 4, "--seeds", "3", "-i", "me.png", "--strength", "0.5")
    kept = generate("validate", *flags, *start, "--mask", "mask.png", "--min-similarity", "0.9", "--json")
    assert kept.code == 0, kept.err
    report = json.loads(kept.out)
    assert report["similarity"] > 0.99
    assert report["runs"]["person"]["moved"] > 0  # beside the face
    assert "Only in 0 of 1" in " ".join(report["notes"])  # and nothing of it is the identity's doing
    lost = generate("validate", *flags, *start, "--min-similarity", "0.9", "--json")
    assert "similarity 0.000, below --min-similarity 0.9" in lost.error
    assert json.loads(lost.out)["runs"]["person"]["without_face"] == 1


# ------------------------------------------------------------------------------------------------------------------------- numbers

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
        "identity": {"sha256": "id", "weight": 1.0},
        "references": [{"name": "me", "sha256": "r", "cosine": 1.0, "stranger": None}],
        "strangers": [],
        "recognizer": {"name": "own.onnx", "sha256": "j", "own": False},
        "settings": {},
    }
    return Report(**(facts | more), shots=shots)


def test_a_picture_without_a_face_counts_0_and_one_that_failed_does_not_count():
    found = report(*SHOTS)
    assert found.similarity == pytest.approx((0.8 + 0.2 + 0) / 3)
    assert found.share_above(PERSON, 0.2) == pytest.approx(2 / 3)
    assert found.share_above(PERSON, 0.0) == pytest.approx(2 / 3)  # no face is never alike, not even by 0
    assert found.share_above(STRANGER, 0.5) is None
    assert found.as_dict()["closer_than_weight_0"] == {"pairs": 3, "closer": 1}  # no face is not closer, whatever weight 0 has
    assert mean(shot.moved for shot in found.of(PERSON)) == pytest.approx(40 / 3)
    summary = found.as_dict()["runs"]["person"]
    assert (summary["pictures"], summary["with_face"], summary["without_face"], summary["failed"]) == (4, 2, 1, 1)
    assert [shot.counted for shot in SHOTS] == [0.8, 0.1, 0.2, 0.3, 0.0, -0.2, None, None]


def test_numbers_for_people():
    assert [number(value) for value in (0.12345, -0.0001, -0.25, None)] == ["0.123", "0.000", "-0.250", "-"]


def test_passing_is_at_least_the_minimum_and_nothing_passes_without_pictures():
    good = report(SHOTS[0], minimum=0.8)
    assert (good.passed, replace(good, minimum=0.81).passed, replace(good, minimum=None).passed) == (True, False, None)
    assert report(SHOTS[6], minimum=-1.0).passed is False


@pytest.mark.parametrize(
    ("shots", "more", "note"),
    [
        (SHOTS[:2], {"recognizer": {"name": "g", "sha256": "j", "own": True}}, "g is the network that PuLID is conditioned on"),
        (SHOTS[4:5], {}, "No face was found in pictures: 1 of 1 of the person; each counts as 0."),
        (SHOTS[6:], {}, "2 of 2 pictures could not be drawn or scored"),
        (SHOTS[:2], {}, "No stranger was given"),
        (SHOTS[2:3], {"strangers": [{"name": "you"}]}, "In 1 of 1 picture the face is as like the stranger as the person"),
        (SHOTS[2:4], {}, "Only in 0 of 1 pairs"),
        (SHOTS[2:3], {}, "1 picture of the person with several faces"),
        (
            SHOTS[:2],
            {"references": [{"name": "me", "sha256": "r", "cosine": 1.0, "stranger": 0.4}]},
            "portrait is like the person's (cosine 0.40)",
        ),
    ],
)
def test_what_a_reader_must_know_is_said_when_it_is_so(shots, more, note):
    assert any(note in said for said in report(*shots, **more).notes())
    calm = report(*SHOTS[:2], strangers=[{"name": "you", "sha256": "y"}])
    assert calm.notes() == []


def test_our_prompts_are_a_dozen_of_every_aspect():
    assert len({trial.name for trial in TRIALS}) == len({trial.text for trial in TRIALS}) == len(TRIALS) == 12
    assert {trial.aspect for trial in TRIALS} == {"pose", "light", "age", "style", "occlusion", "crowd"}
    assert all(re.fullmatch(r"[a-z-]+", trial.name) and "a person" in trial.text for trial in TRIALS)
    assert own_trials([(3, "a cat")]) == (Trial("line-3", "own", "a cat"),)


# ----------------------------------------------------------------------------------------------------------------------------- page


VOID = {"meta", "img", "link", "br"}


class Tags(HTMLParser):
    """Every element with its attributes, balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return as_page(report(*SHOTS), {"1.png": buffer.getvalue()}.get, [("reference <me>", buffer.getvalue())])


def test_the_page_needs_nothing_but_itself(page):
    assert "://" not in page
    assert "default-src 'none'" in page
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "link", "iframe", "object")
        assert (attributes.get("src") or "data:").startswith("data:image/jpeg;base64,") or tag != "img"
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_is_for_everyone(page):
    tags = Tags(page).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert [image["alt"] for image in images] == ["reference <me>", "a, the person, seed 1: 0.800"]
    drawings = [attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(drawings) == 3
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 40 for attributes in drawings)
    assert ("html", {"lang": "en"}) in tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in tags if tag == "meta")
    assert "prefers-color-scheme:dark" in page
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_the_page_says_what_made_it():
    settings = {"models": {"flux": "schnell", "vae": "ae"}, "loras": [{"name": "a", "weight": 1}], "steps": 4}
    page = as_page(
        report(SHOTS[0], settings=settings, identity={"sha256": "id", "weight": 0.8, "stranger_sha256": "you"}),
        lambda _: None,
        [],
    )
    for text in ("flux schnell, vae ae", "name a, weight 1", "SHA-256 id, weight 0.8", "SHA-256 you", "own.onnx, SHA-256 j"):
        assert f">{text}<" in page
    assert "stranger" not in as_page(report(SHOTS[0]), lambda _: None, []).split("What made it")[1]


def test_names_are_no_markup_and_all_numbers_are_in_the_table(page):
    assert "a <dog>" not in page
    assert "a &lt;dog&gt;" in page
    for cell in ("0.800", "0.100", "13.3", "1 of 2", "1 of 4"):
        assert f"<td>{cell}</td>" in page
    assert "no face" in page
    assert "not drawn" in page


def test_the_plots_show_what_the_report_says():
    found = report(*SHOTS, minimum=0.5)
    plot = charts.by_prompt(found)
    assert plot.count("<circle") == 2
    assert plot.count('class="cross person"') == 1  # no face is shown, at 0
    assert plot.count('class="limit"') == 1
    assert 'class="limit"' not in charts.by_prompt(replace(found, minimum=None))
    curve = charts.share_curve(found)
    points = re.search(r'class="curve person" points="([^"]+)"', curve)[1].split()
    assert len(points) == 21
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # it only falls
    assert heights[0] < heights[-1]
    moved = charts.moved_plot(found)
    assert moved.count("<circle") == 2
    assert "3 pairs" in moved
    assert "moved by - of 255" in charts.moved_plot(report(SHOTS[6]))  # nothing to show is no error
