"""Several portraits of one person: are they one person, and how their tokens become one identity.

Cosines of ArcFace vectors, and averages of tokens; pure numpy. The form inside IDFormer ("encoder")
is the encoder's own and stands in idformer.py. Knows nothing of pictures or files.

Sources: ToTheBeginning/PuLID 1aa2fc7, pulid/encoders_transformer.py (several images in one pass)
and app.py (tokens of several portraits one after another); Deng et al., ArcFace (arXiv 1801.07698):
the cosine of two vectors says whether they are one person.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from pulid_extract.shared.embedding_file import MAX_TOKENS
from pulid_extract.shared.errors import FaceError, InputError

Fuse = Literal["encoder", "mean", "concat", "weighted"]
FUSE: tuple[Fuse, ...] = get_args(Fuse)

# Cosines of un-normalised ArcFace vectors (antelopev2's glintr100). Two photographs of one person
# are usually above 0.4, two strangers around 0; both limits leave room for age, profile and poor
# light.
# mean cosine to the other portraits below which one is named
OUTLIER = 0.35
# cosine of two portraits below which they are two people
STRANGER = 0.25
# of the best portrait's: a useless portrait still counts, so that weights never sum to nothing
SMALLEST_WEIGHT = 0.01


def cosines(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """(I, I) float64: the cosine of every pair of (512,) vectors. A vector of length 0 has cosine 0
    to all.
    """
    stack = np.stack(vectors).astype(np.float64)
    lengths = np.linalg.norm(stack, axis=1, keepdims=True)
    unit = np.divide(stack, lengths, out=np.zeros_like(stack), where=lengths > 0)
    return unit @ unit.T


def mean_to_others(pairs: np.ndarray) -> np.ndarray:
    """(I,) float64: each portrait's mean cosine to the others, of at least two."""
    return (pairs.sum(axis=1) - np.diag(pairs)) / (len(pairs) - 1)


def outliers(pairs: np.ndarray) -> list[int]:
    """Places of the portraits that are unlike the rest, the worst first.

    The worst is taken out before the next is judged, so that one stranger does not pull the others
    down. Of two portraits neither is the outlier, since nothing says which.
    """
    left, outlying = list(range(len(pairs))), []
    while len(left) > 2:
        means = mean_to_others(pairs[np.ix_(left, left)])
        worst = int(np.argmin(means))
        if means[worst] >= OUTLIER:
            break
        outlying.append(left.pop(worst))
    return outlying


def strangers(pairs: np.ndarray) -> tuple[int, int, float] | None:
    """The two portraits least like each other and their cosine, if it says that they are two
    people.
    """
    least = None
    for first, second in itertools.combinations(range(len(pairs)), 2):
        cosine = float(pairs[first, second])
        if least is None or cosine < least[2]:
            least = (first, second, cosine)
    if least is None or least[2] >= STRANGER:
        return None
    return least


def cosine_table(names: Sequence[str], pairs: np.ndarray) -> list[str]:
    """Lines for people: every pair's cosine, and each portrait's mean to the others."""
    wide = max(len(name) for name in names)
    heads = "".join(f"{number:>7}" for number in range(1, len(names) + 1))
    lines = [f"{'ArcFace cosines':<{wide + 4}}{heads}   mean"]
    for place, (name, mean) in enumerate(zip(names, mean_to_others(pairs), strict=True)):
        cells = [f"{cosine:>7.2f}" for cosine in pairs[place]]
        cells[place] = f"{'-':>7}"
        lines.append(f"{place + 1:>3} {name:<{wide}}{''.join(cells)}{mean:>7.2f}")
    return lines


def fuse_tokens(
    tokens: Sequence[np.ndarray], fuse: Fuse, values: Sequence[float] | None = None
) -> np.ndarray:
    """One identity of several: I arrays (N, C) float32 -> (N, C), or (I * N, C) for "concat".

    "mean": their average. "weighted": their average by `values`, each 0..1 and counted as at least
    a hundredth of the best one. "concat": one after another; attention weighs them for each image
    token. Raises InputError for "encoder", which fuses before there are tokens, and FaceError for
    more than 1,024 tokens.
    """
    if fuse == "mean":
        return np.asarray(np.mean(np.stack(tokens), axis=0, dtype=np.float64), np.float32)
    if fuse == "weighted":
        if values is None or len(values) != len(tokens):
            raise InputError(f"weighted fusion wants one value for each of {len(tokens)} portraits")
        weights = np.maximum(np.asarray(values, np.float64), SMALLEST_WEIGHT * max(*values, 1e-9))
        return np.asarray(np.average(np.stack(tokens), axis=0, weights=weights), np.float32)
    if fuse == "concat":
        total = sum(len(part) for part in tokens)
        if total > MAX_TOKENS:
            raise FaceError(
                f"--fuse concat: {len(tokens)} portraits give {total} tokens, a .pulidembd holds "
                f"{MAX_TOKENS}; give fewer portraits, or --fuse encoder"
            )
        return np.concatenate(tokens)
    raise InputError(f"--fuse {fuse}: expected mean, weighted or concat for tokens")
