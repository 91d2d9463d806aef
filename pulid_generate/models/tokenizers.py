"""Tokenizers of CLIP-L and T5: where their vocabularies are, and what reads them. Knows nothing of
the encoders themselves.

Sources: openai/clip-vit-large-patch14 through open_clip; google/t5-v1_1-xxl spiece.model; llama.cpp
convert_hf_to_gguf.py (T5Model.set_vocab: how a vocabulary stands in a GGUF).
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pulid_extract.shared.model_files import read_gguf
from pulid_generate.errors import CheckpointError

# tokenised twice, to see whether two libraries read a vocabulary alike
PROBE = "a photo of a cat"
# sentencepiece's types: llama.cpp fills the vocabulary up to the embedding's rows with these
PIECE_UNUSED = 5
# T5's sentinels: not in spiece.model, transformers adds them itself
EXTRA_PIECE = "<extra_id_"


def clip_tokenizer() -> Any:
    """OpenAI's CLIP tokenizer, from the vocabulary inside the open_clip package. Raises
    CheckpointError if that is missing.
    """
    from transformers import CLIPTokenizer

    # find_spec does not import open_clip, which takes seconds
    spec = importlib.util.find_spec("open_clip")
    path = Path(str(spec.origin if spec else "")).parent / "bpe_simple_vocab_16e6.txt.gz"
    if spec is None or not path.is_file():
        raise CheckpointError(
            "CLIP vocabulary: the open_clip package is missing; "
            "pip install 'pulid-flux-toolkit[generate]'"
        )
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    # open_clip/tokenizer.py, SimpleTokenizer
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(_byte_letters())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def read_t5_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` that ends every prompt with </s>.

    path: a tokenizer.json, a spiece.model, or a GGUF that carries its vocabulary. Raises
    CheckpointError for a damaged one.
    """
    from tokenizers import Tokenizer

    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        elif path.suffix == ".gguf":
            with tempfile.TemporaryDirectory() as folder:
                pieces_file = Path(folder) / "spiece.model"
                pieces_file.write_bytes(sentencepiece_of(path))
                return read_t5_tokenizer(pieces_file)
        else:
            from sentencepiece import SentencePieceProcessor
            from transformers import T5Tokenizer

            # refuses damaged files; transformers makes something of an empty one
            pieces = SentencePieceProcessor(model_file=str(path))
            # T5Tokenizer(vocab_file=...) gives a tokenizer of 104 words without a word of warning;
            # a folder loads correctly
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(path, Path(folder) / "spiece.model")
                tokenizer = T5Tokenizer.from_pretrained(folder).backend_tokenizer
            if tokenizer.encode(PROBE).ids[:-1] != pieces.encode(PROBE):
                raise ValueError("transformers and sentencepiece read it differently")
    # the libraries raise bare Exceptions and protobuf errors of many kinds
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a T5 tokenizer, or damaged ({str(error).splitlines()[0]}); "
            "download it again"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.encode("a").ids[-1:] != [tokenizer.token_to_id("</s>")]:
        raise CheckpointError(
            f"{path}: does not end a prompt with </s>; "
            "it is not a T5 tokenizer, give the one of google/t5-v1_1-xxl"
        )
    return tokenizer


def sentencepiece_of(path: Path) -> bytes:
    """The spiece.model that a GGUF's `tokenizer.ggml.*` was made from, as far as ids depend on it.
    Raises ValueError without a vocabulary.
    """
    from sentencepiece import sentencepiece_model_pb2

    # protobuf makes its classes at import
    proto: Any = sentencepiece_model_pb2
    values = read_gguf(path, arrays=True).values

    def value(name: str, default: Any = None) -> Any:
        stored = values.get(f"tokenizer.ggml.{name}", default)
        if stored is None:
            raise ValueError(f"no tokenizer.ggml.{name}")
        return stored

    if value("model") != "t5":
        raise ValueError(f"its vocabulary is for {value('model')!r}")
    model = proto.ModelProto()
    pieces = zip(value("tokens"), value("scores"), value("token_type"), strict=True)
    for text, score, kind in pieces:
        if kind == PIECE_UNUSED or text.startswith(EXTRA_PIECE):
            continue
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id = value("unknown_token_id", 2)
    model.trainer_spec.eos_id = value("eos_token_id", 1)
    model.trainer_spec.pad_id = value("padding_token_id", 0)
    model.trainer_spec.bos_id = -1
    model.normalizer_spec.add_dummy_prefix = value("add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = value("remove_extra_whitespaces", True)
    model.normalizer_spec.precompiled_charsmap = bytes(value("precompiled_charsmap", b""))
    return model.SerializeToString()


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
