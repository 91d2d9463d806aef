"""CLIP's words: OpenAI's vocabulary out of the open_clip package, as a tokenizer. Both stages read
prompts with it. Imports no torch, and open_clip not at all.

Source: openai/CLIP clip/simple_tokenizer.py, through open_clip.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.errors import PackageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_START, CLIP_END, CLIP_WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
# What CLIP takes for one word: openai/CLIP clip/simple_tokenizer.py
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def open_clip_tokenizer(extra: str) -> Tokenizer:
    """OpenAI's CLIP tokenizer; it puts the start and the end token around a prompt.

    extra: of this toolkit, which brings the vocabulary, for the message. Raises PackageError if it
    is not installed.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    # find_spec does not import open_clip, which takes seconds
    spec = importlib.util.find_spec("open_clip")
    folder = Path(str(spec.origin)).parent if spec and spec.origin else None
    path = folder / "bpe_simple_vocab_16e6.txt.gz" if folder is not None else None
    if path is None or not path.is_file():
        raise PackageError(
            "CLIP vocabulary: the open_clip package is missing; "
            f"pip install 'pulid-flux-toolkit[{extra}]'"
        )
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    # open_clip/tokenizer.py, SimpleTokenizer
    merges: list[tuple[str, str]] = [
        (pair[0], pair[1]) for pair in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])
    ]
    letters = _byte_letters()
    words = letters + [letter + CLIP_WORD_END for letter in letters]
    words += ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate([*words, CLIP_START, CLIP_END])}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=CLIP_END,
            continuing_subword_prefix="",
            end_of_word_suffix=CLIP_WORD_END,
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([CLIP_START, CLIP_END])
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_END, vocabulary[CLIP_END]),
        (CLIP_START, vocabulary[CLIP_START]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of CLIP's vocabulary. Source:
    openai/gpt-2 encoder.py.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [
        chr(256 + index) for index in range(256 - len(printable))
    ]
