"""From the flags of `score` to what judges pictures: a detector, recognisers, a judge of prompts.
Call it within `quiet`; loads networks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pulid_extract.extraction.opening import open_extractor
from pulid_extract.faces.recognizer import Recognizer
from pulid_extract.faces.score_report import Judges, PromptJudge
from pulid_extract.faces.scorer import FaceScorer, KnownFaces
from pulid_extract.files.file_hashes import FileHashes
from pulid_extract.flags.score import ScoreFlags
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError
from pulid_extract.shared.file_names import path_of

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.networks.prompt_judge import PromptScorer

# what --recognizer calls the pack's own
PACK = "antelopev2"


def read_prompts(flags: ScoreFlags, pictures: int) -> list[str] | None:
    """A prompt for each picture; None if none is asked for. Raises InputError."""
    if flags.prompt is not None:
        return [flags.prompt] * pictures
    if flags.prompts is None:
        return None
    path = path_of(flags.prompts)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; expected a prompt in each line") from None
    # lines of a terminal's end, not of whatever else Unicode takes for one
    lines = [line.strip() for line in text.split("\n")]
    prompts = [line for line in lines if line]
    if len(prompts) != pictures:
        raise InputError(
            f"{path}: {len(prompts)} prompts for {pictures} pictures; expected one in each line, "
            "or --prompt for all"
        )
    return prompts


def open_judges(flags: ScoreFlags, prompts: list[str] | None) -> tuple[FaceScorer, Judges, list]:
    """What compares, whose numbers it gives, and the model files that are read. prompts: that are
    asked about. Raises PulidError.
    """
    roles = set()
    if flags.reference:
        roles.add("antelopev2")
    if prompts is not None and flags.prompt_judge is None:
        roles.add("eva_clip")
    extractor = open_extractor(flags, roles=roles)
    recognizers, own = _recognizers(flags, extractor)
    judges = Judges(recognizers, own)
    scorer = FaceScorer(
        extractor.detect,
        recognizers,
        flags.face_order,
        flags.face_index,
        with_tiles=flags.sheet is not None,
    )
    if prompts is not None:
        prompt_scorer = _prompt_scorer(flags, extractor)
        judge = prompt_scorer.judge
        sha256 = FileHashes(default_folder()).of(judge.path)
        judges = replace(judges, prompt=PromptJudge(judge.name, sha256))
        scorer = replace(scorer, judge=prompt_scorer.points)
        cut = sum(prompt_scorer.is_cut(prompt) for prompt in set(prompts))
        if cut:
            console.log(
                f"{cut} of {len(set(prompts))} prompts are longer than the {judge.length} tokens "
                f"that {judge.name} reads: of those the beginning counts"
            )
    return scorer, judges, [file.path for file in extractor.files.values()]


def known_faces(flags: ScoreFlags, scorer: FaceScorer) -> KnownFaces:
    """Who pictures are compared with. Raises InputError, FaceError."""
    groups = []
    for what, paths in (
        ("reference", flags.reference),
        ("stranger", flags.stranger),
        ("truth", flags.truth),
    ):
        groups.append([scorer.known_face(path, what) for path in paths or []])
    known = KnownFaces(*groups)
    known.check()
    return known


def _recognizers(flags: ScoreFlags, extractor: Extractor) -> tuple[list[Recognizer], str | None]:
    """Those that were asked for, and the SHA-256 of the pack's own."""
    if not flags.reference:
        return [], None
    folder = extractor.files["antelopev2"].path
    own: Recognizer | None = None
    found = []
    for name in flags.recognizer or [PACK]:
        if name == PACK:
            own = own or Recognizer.of_pack(folder)
            found.append(own)
        else:
            found.append(Recognizer(path_of(name)))
    sha256: str | None = own.sha256 if own is not None else Recognizer.sha256_of_pack(folder)
    if extractor.files["antelopev2"].warning:
        # another pack, which PuLID knows nothing of
        sha256 = None
    twice = [one.name for place, one in enumerate(found) if one.sha256 in _hashes(found[:place])]
    if twice:
        raise InputError(f"--recognizer: {twice[0]} is there twice; give another network")
    if sha256 in _hashes(found) and len(found) == 1:
        console.log(
            f"{found[0].name} is the network that PuLID is conditioned on; "
            "--recognizer takes an independent one"
        )
    return found, sha256


def _hashes(recognizers: list[Recognizer]) -> set[str]:
    return {one.sha256 for one in recognizers}


def _prompt_scorer(flags: ScoreFlags, extractor: Extractor) -> PromptScorer:
    from pulid_extract.networks.prompt_judge import EvaJudge, Judge, OnnxJudge, PromptScorer

    judge: Judge
    if flags.prompt_judge is not None:
        judge = OnnxJudge(path_of(flags.prompt_judge))
    else:
        judge = EvaJudge(extractor.files["eva_clip"].path, extractor.device)
    return PromptScorer(judge)
