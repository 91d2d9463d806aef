"""One extraction, from portraits that were read to the bytes of a file: what the single command and
`batch` do alike.

A job is decided before a network is loaded; `cut` and `make` are its two halves, so that a batch
can overlap them; `recall` finds what was made before. Writes no file. Torch comes with the
Extractor that is handed in, never from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pulid_extract.extraction.embedding_cache import EmbeddingCache, Key, Stored, key_of
from pulid_extract.extraction.sources import Source, read_sources
from pulid_extract.flags.face_choice import face_choice, numbers
from pulid_extract.shared.errors import FaceError, InputError
from pulid_extract.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.extraction.identity import FaceCrop
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.flags.extract import Flags
    from pulid_extract.pictures.regions import FaceBox

Log = Callable[[str], None]
Seen = Callable[[Source, "np.ndarray", "FaceCrop"], None]
LIBRARIES = (
    "facexlib",
    "insightface",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pillow",
    "timm",
    "torch",
    "torchvision",
)
# flags that decide the bytes
CHANGING = ("aligner", "parser", "det_threshold", "with_uncond", "dtype")
# raised by hand when the last bits change: 1 was torch's own float32 products on a CPU, 2 are
# oneDNN's
ARITHMETIC = 2
SEVERAL = ("fuse", "drop_outliers", "mix_people")  # and these, of several portraits


@dataclass(frozen=True)
class Job:
    """What is to be made. sources: the portraits, each once. mask, boxes: what EVA-CLIP may see of
    the one portrait.
    """

    sources: tuple[Source, ...]
    choice: FaceChoice
    mask: Source | None
    boxes: tuple[FaceBox, ...]
    flags: Flags

    def settings(self, hashes: Mapping[str, Sequence[str]], device: str) -> dict[str, Any]:
        """Everything but the portraits that decides the bytes, as JSON values. hashes: role ->
        SHA-256 of its files.
        """
        several = SEVERAL if len(self.sources) > 1 else ()
        return {
            "tool": __version__,
            "arithmetic": ARITHMETIC,
            "libraries": {name: _version(name) for name in LIBRARIES},
            "weights": {name: list(found) for name, found in sorted(hashes.items())},
            "device": device,
            "choice": asdict(self.choice),
            "boxes": [asdict(box) for box in self.boxes],
            "mask": None if self.mask is None else self.mask.sha256,
            **{name: getattr(self.flags, name) for name in (*CHANGING, *several)},
        }

    def key(self, hashes: Mapping[str, Sequence[str]], device: str) -> Key:
        return key_of([source.data for source in self.sources], self.settings(hashes, device))


@dataclass(frozen=True)
class Made:
    """The file's bytes, and what was found out: `report` makes JSON of it. cached: it was made
    before.
    """

    data: bytes
    facts: dict[str, Any]
    cached: bool = False

    @property
    def stored(self) -> Stored:
        return Stored(self.data, self.facts)


@dataclass(frozen=True)
class Cut:
    """The faces of a job, one for each source, and the places of those that are kept."""

    job: Job
    crops: tuple[FaceCrop, ...]
    together: dict[str, Any]


def decide(flags: Flags, fail: Callable[[str], None]) -> tuple[FaceChoice, tuple[FaceBox, ...]]:
    """The choice of face and the boxes that the flags mean. `fail` is called for flags that exclude
    each other, and must raise.
    """
    from pulid_extract.pictures.regions import FaceBox

    choice = face_choice(_Context(fail), flags)  # type: ignore[arg-type]
    if flags.aligner != "retinaface" and not choice.detects:
        fail("--aligner changes nothing for a face that is given by hand.")
    return choice, tuple(FaceBox(*numbers(text, "X,Y,W,H", "--box")) for text in flags.box or [])


@dataclass(frozen=True)
class _Context:
    """As much of typer's context as wrong usage needs."""

    fail: Callable[[str], None]


def read_job(
    paths: Sequence[str], flags: Flags, choice: FaceChoice, boxes: tuple[FaceBox, ...], log: Log
) -> Job:
    """Read the portraits, each once. paths: what `flags.portrait` comes to, folders expanded.
    Raises InputError.
    """
    if flags.mask == "-" and "-" in paths:
        raise InputError("--mask -: standard input is the portrait; it holds one picture")
    sources = read_sources(paths, log)
    mask = read_sources([flags.mask], log, "--mask")[0] if flags.mask is not None else None
    return Job(tuple(sources), choice, mask, boxes, flags)


def decoded(job: Job) -> Iterator[np.ndarray]:
    """The portraits, one after the other: thirty photographs of a phone would not fit into memory.
    Raises InputError.
    """
    from pulid_extract.pictures.portrait import decode_portrait

    for source in job.sources:
        yield decode_portrait(source.data, source.where)


def cut(
    job: Job,
    images: Iterable[np.ndarray],
    extractor: Extractor,
    log: Log,
    seen: Seen = lambda source, image, crop: None,
) -> Cut:
    """Find, choose and cut out the face of every portrait, and see whether they are one person.
    Raises InputError, WeightsError.

    images: the portraits, `decoded`. seen: is called with each portrait and its face.
    """
    from pulid_extract.networks import fusion

    crops = []
    for source, image in zip(job.sources, images, strict=True):
        crops.append(_crop(job, source, image, extractor))
        quality = crops[-1].quality
        say_quality(
            source.where, quality.line(), [warning.advice for warning in quality.warnings], log
        )
        seen(source, image, crops[-1])
    pairs = fusion.cosines([crop.vector for crop in crops]) if len(crops) > 1 else None
    advice = [[warning.advice for warning in crop.quality.warnings] for crop in crops]
    return Cut(
        job,
        tuple(crops),
        compare([source.where for source in job.sources], pairs, advice, job.flags, log),
    )


def kept_of(job: Job, source: Source, image: np.ndarray) -> np.ndarray | None:
    """What --mask and --box leave of a portrait, see `regions.keep_of`; checks a --face-box as
    well. Raises InputError.
    """
    from pulid_extract.pictures.portrait import decode_portrait
    from pulid_extract.pictures.regions import check_box, keep_of

    size = (image.shape[1], image.shape[0])
    mask = decode_portrait(job.mask.data, job.mask.where) if job.mask is not None else None
    try:
        if job.choice.box is not None:
            check_box("--face-box", job.choice.box, size)
        return keep_of(size, mask, job.boxes, job.mask.where if job.mask is not None else "")
    except InputError as error:
        raise InputError(f"{source.where}: {error}") from None


def _crop(job: Job, source: Source, image: np.ndarray, extractor: Extractor) -> FaceCrop:
    keep = kept_of(job, source, image)
    try:
        return extractor.crop(image, job.choice, keep)
    except InputError as error:
        raise type(error)(f"{source.where}: {error}") from None


def say_quality(where: str, line: str, advice: Sequence[str], log: Log) -> None:
    log(f"{where}: {line}")
    for warning in advice:
        log(f"{where}: warning: {warning}")


def compare(
    names: Sequence[str],
    pairs: np.ndarray | None,
    advice: Sequence[Sequence[str]],
    flags: Flags,
    log: Log,
) -> dict[str, Any]:
    """Whether the portraits are one person: {"cosines": (I, I) lists or None, "outliers": places,
    "dropped": places}.

    pairs: cosines of every pair, None for one portrait. advice: each portrait's warnings, an error
    with --strict. Raises FaceError.
    """
    from pulid_extract.networks import fusion

    warned = [
        f"{name}: {line}" for name, lines in zip(names, advice, strict=True) for line in lines
    ]
    together: dict[str, Any] = {"cosines": None, "outliers": [], "dropped": []}
    if pairs is not None:
        for line in fusion.cosine_table(names, pairs):
            log(line)
        places, means = fusion.outliers(pairs), fusion.mean_to_others(pairs)
        for place in places:
            what = f"{names[place]}: unlike the other portraits (mean ArcFace cosine {means[place]:.2f}, below {fusion.OUTLIER})"
            log(
                f"{what}: dropped"
                if flags.drop_outliers
                else f"{what}: warning: leave it out, or give --drop-outliers"
            )
            warned += [] if flags.drop_outliers else [what]
        dropped = places if flags.drop_outliers else []
        together = {"cosines": pairs.tolist(), "outliers": places, "dropped": dropped}
        left = [place for place in range(len(names)) if place not in dropped]
        pair = fusion.strangers(pairs[left][:, left])
        if pair is not None:
            one, other = names[left[pair[0]]], names[left[pair[1]]]
            what = f"{one} and {other} are two people by ArcFace (cosine {pair[2]:.2f}, below {fusion.STRANGER})"
            if not flags.mix_people:
                better = (
                    "leave one out" if len(left) < 3 else "leave one out, or give --drop-outliers"
                )
                raise FaceError(f"{what}; {better}; --mix-people fuses them all the same")
            log(f"{what}: fused all the same, as --mix-people says")
    if flags.strict and warned:
        raise FaceError(
            f"--strict: {len(warned)} warning{'s' * (len(warned) != 1)}, nothing was written: {'; '.join(warned)}"
        )
    return together


def make(cut: Cut, extractor: Extractor, hashes: Callable[[], Mapping[str, str]]) -> Made:
    """The file of faces that were cut. hashes: gives the weights', as keys of a .pulidembd, at the
    end. Raises WeightsError.

    Provenance is hashes, choices and version, and no time, path or name, so that the same input
    gives the same bytes.
    """
    from pulid_extract.shared.embedding_file import encode_embedding

    job, flags = cut.job, cut.job.flags
    parts = [
        part
        for place, part in enumerate(zip(job.sources, cut.crops, strict=True))
        if place not in cut.together["dropped"]
    ]
    # In the order of their hashes, so that the same portraits give the same bytes whatever order
    # they come in.
    kept = sorted(parts, key=lambda part: part[0].sha256)
    identity = extractor.fuse([crop for _, crop in kept], flags.fuse, flags.with_uncond)
    changed = {
        name: getattr(flags, name)
        for name in ("aligner", "parser")
        if getattr(flags, name) != getattr(type(flags), name)
    }
    region = "+".join(
        ([f"mask {job.mask.sha256}"] if job.mask else []) + (["box"] if job.boxes else [])
    )
    provenance = {
        "portrait.sha256": ",".join(source.sha256 for source, _ in kept),
        **hashes(),
        "face": kept[0][1].face,
        "tool": f"pulid_extract {__version__}",
        **changed,
        **({"region": region} if region else {}),
        **({"fuse": flags.fuse} if len(kept) > 1 else {}),
    }
    facts = {
        "portraits": [
            _facts(source, crop) for source, crop in zip(job.sources, cut.crops, strict=True)
        ],
        "cosines": cut.together["cosines"],
        "tokens": list(identity.tokens.shape),
        "uncond": identity.uncond is not None,
        "device": extractor.device,
    }
    return Made(
        encode_embedding(
            identity.tokens, identity.uncond, dtype=flags.dtype, provenance=provenance
        ),
        facts,
    )


def _facts(source: Source, crop: FaceCrop) -> dict[str, Any]:
    """One portrait, without its name."""
    box = crop.box
    return {
        "sha256": source.sha256,
        "face": crop.face,
        "box": [box.x, box.y, box.width, box.height],
        "landmarks": None
        if crop.landmarks is None
        else [[round(float(x), 2) for x in point] for point in crop.landmarks],
        "score": crop.score,
        "faces": crop.faces_found,
        "quality": crop.quality.as_dict(),
        "line": crop.quality.line(),
    }


def recall(job: Job, cache: EmbeddingCache, key: Key, log: Log) -> Made | None:
    """What was made of these portraits with these options and weights before, judged again: it says
    what the first time said.

    Raises FaceError as `cut` does for what --strict refuses.
    """
    import numpy as np

    stored = cache.get(key)
    if stored is None:
        return None
    known = {one["sha256"]: place for place, one in enumerate(stored.facts["portraits"])}
    order = [known[source.sha256] for source in job.sources]  # which may come in another order now
    portraits = [stored.facts["portraits"][place] for place in order]
    cosines = stored.facts["cosines"]
    pairs = None if cosines is None else np.array(cosines)[order][:, order]
    for source, one in zip(job.sources, portraits, strict=True):
        say_quality(source.where, one["line"], list(one["quality"]["warnings"].values()), log)
    advice = [list(one["quality"]["warnings"].values()) for one in portraits]
    compare([source.where for source in job.sources], pairs, advice, job.flags, log)
    facts = {
        **stored.facts,
        "portraits": portraits,
        "cosines": None if pairs is None else pairs.tolist(),
    }
    return Made(stored.data, facts, cached=True)


def portraits_of(job: Job, made: Made) -> list[dict[str, Any]]:
    """For JSON: each portrait, with its name."""
    return [
        {"portrait": source.path, **{name: value for name, value in one.items() if name != "line"}}
        for source, one in zip(job.sources, made.facts["portraits"], strict=True)
    ]


def together_of(job: Job, made: Made) -> dict[str, Any]:
    """For JSON: how several portraits go together; nothing for one."""
    import numpy as np

    if made.facts["cosines"] is None:
        return {}
    names, pairs = [source.where for source in job.sources], np.array(made.facts["cosines"])
    quiet = replace(job.flags, strict=False, mix_people=True)  # it has been judged
    together = compare(names, pairs, [[] for _ in names], quiet, lambda line: None)
    return {
        "fuse": job.flags.fuse,
        "cosines": [[round(cosine, 4) for cosine in row] for row in together["cosines"]],
        **{name: [names[place] for place in together[name]] for name in ("outliers", "dropped")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
