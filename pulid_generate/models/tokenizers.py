"""Tokenizers of CLIP-L and T5: where their vocabularies are, and what reads them. Knows nothing of
the encoders themselves.

Sources: google/t5-v1_1-xxl spiece.model; llama.cpp
convert_hf_to_gguf.py (T5Model.set_vocab: how a vocabulary stands in a GGUF).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pulid_extract.shared.clip_words import open_clip_tokenizer
from pulid_extract.shared.errors import first_line
from pulid_extract.shared.model_files import read_gguf
from pulid_generate.errors import CheckpointError
from pulid_generate.models.charsmap import check_charsmap
from pulid_generate.models.tokenizer_json import MAX_BYTES, MAX_PIECES, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T5_END, T5_UNKNOWN = "</s>", 2
T5_SENTINELS = 100
# tokenised twice, to see whether two libraries read a vocabulary alike
PROBE = "a photo of a cat"
# sentencepiece's types: llama.cpp fills the vocabulary up to the embedding's rows with these
PIECE_UNUSED = 5
# T5's sentinels, which stand behind spiece.model's own pieces
EXTRA_PIECE = "<extra_id_"


def clip_tokenizer() -> Tokenizer:
    """OpenAI's CLIP tokenizer; it puts the start and the end token around a prompt. Raises
    PackageError if its vocabulary is not installed.
    """
    return open_clip_tokenizer("generate")


def read_t5_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that ends every prompt with </s>.

    path: a tokenizer.json, a spiece.model, or a GGUF that carries its vocabulary. Raises
    CheckpointError for a damaged one.
    """
    try:
        if path.suffix == ".json":
            tokenizer = tokenizer_of(_bytes_of(path), T5_END)
        elif path.suffix == ".gguf":
            tokenizer = _t5_tokenizer(sentencepiece_of(path))
        else:
            tokenizer = _t5_tokenizer(_bytes_of(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ends = tokenizer.encode("a").ids[-1:] == [tokenizer.token_to_id(T5_END)]
    except (KeyboardInterrupt, SystemExit):
        raise
    # the libraries raise bare Exceptions and protobuf errors of many kinds, and Rust's panics are
    # not even that
    except BaseException as error:
        raise CheckpointError(
            f"{path}: not a T5 tokenizer, or damaged ({first_line(error)}); download it again"
        ) from None
    if not ends:
        raise CheckpointError(
            f"{path}: does not end a prompt with </s>; it is not a T5 tokenizer, "
            "give the one of google/t5-v1_1-xxl"
        )
    return tokenizer


def _bytes_of(path: Path) -> bytes:
    """Of a vocabulary, and one more than it may have."""
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _t5_tokenizer(spiece: bytes) -> Tokenizer:
    """The tokenizer of a spiece.model, with T5's sentinels after its pieces. Raises for a damaged
    one.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if len(spiece) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto.FromString(spiece)
    if not 0 < len(model.pieces) <= MAX_PIECES:
        raise ValueError(f"it has {len(model.pieces)} pieces, expected 1 to {MAX_PIECES}")
    if model.normalizer_spec.precompiled_charsmap:
        check_charsmap(model.normalizer_spec.precompiled_charsmap)
    # refuses damaged files, which protobuf may make something of
    pieces = SentencePieceProcessor(model_proto=spiece)
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces]
    sentinels = [f"{EXTRA_PIECE}{index}>" for index in reversed(range(T5_SENTINELS))]
    vocabulary += [(sentinel, 0.0) for sentinel in sentinels]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=T5_UNKNOWN, byte_fallback=False))
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    tokenizer.add_special_tokens(["<pad>", T5_END, "<unk>", *sentinels])
    end = tokenizer.token_to_id(T5_END)
    if end is None:
        raise ValueError("it has no </s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", T5_END], special_tokens=[(T5_END, end)]
    )
    if tokenizer.encode(PROBE).ids[:-1] != pieces.encode(PROBE):
        raise ValueError("tokenizers and sentencepiece read it differently")
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
    # of a number, bytes would make as many zeros
    charsmap = np.asarray(value("precompiled_charsmap", np.zeros(0, np.uint8)))
    if charsmap.ndim != 1 or charsmap.dtype.itemsize != 1:
        raise ValueError("its precompiled_charsmap is not an array of bytes")
    model.normalizer_spec.precompiled_charsmap = charsmap.tobytes()
    return model.SerializeToString()
