"""Tokenizers of CLIP-L and T5: where their vocabularies are, and what reads them. Knows nothing of
the encoders themselves.

Sources: openai/clip-vit-large-patch14 through open_clip; google/t5-v1_1-xxl spiece.model; llama.cpp
convert_hf_to_gguf.py (T5Model.set_vocab: how a vocabulary stands in a GGUF).
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.model_files import read_gguf
from pulid_generate.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_START, CLIP_END, CLIP_WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
# What CLIP takes for one word: openai/CLIP clip/simple_tokenizer.py
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
T5_END, T5_UNKNOWN = "</s>", 2
T5_SENTINELS = 100
# tokenised twice, to see whether two libraries read a vocabulary alike
PROBE = "a photo of a cat"
# sentencepiece's types: llama.cpp fills the vocabulary up to the embedding's rows with these
PIECE_UNUSED = 5
# T5's sentinels, which stand behind spiece.model's own pieces
EXTRA_PIECE = "<extra_id_"


def clip_tokenizer() -> Tokenizer:
    """OpenAI's CLIP tokenizer, from the vocabulary inside the open_clip package; it puts the start
    and the end token around a prompt. Raises CheckpointError if that is missing.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    # find_spec does not import open_clip, which takes seconds
    spec = importlib.util.find_spec("open_clip")
    folder = Path(str(spec.origin)).parent if spec and spec.origin else None
    path = folder / "bpe_simple_vocab_16e6.txt.gz" if folder is not None else None
    if path is None or not path.is_file():
        raise CheckpointError(
            "CLIP vocabulary: the open_clip package is missing; "
            "pip install 'pulid-flux-toolkit[generate]'"
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


def read_t5_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that ends every prompt with </s>.

    path: a tokenizer.json, a spiece.model, or a GGUF that carries its vocabulary. Raises
    CheckpointError for a damaged one.
    """
    from tokenizers import Tokenizer

    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        elif path.suffix == ".gguf":
            tokenizer = _t5_tokenizer(sentencepiece_of(path))
        else:
            tokenizer = _t5_tokenizer(path.read_bytes())
    # the libraries raise bare Exceptions and protobuf errors of many kinds
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a T5 tokenizer, or damaged ({reason}); download it again"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.encode("a").ids[-1:] != [tokenizer.token_to_id(T5_END)]:
        raise CheckpointError(
            f"{path}: does not end a prompt with </s>; it is not a T5 tokenizer, "
            "give the one of google/t5-v1_1-xxl"
        )
    return tokenizer


def _t5_tokenizer(spiece: bytes) -> Tokenizer:
    """The tokenizer of a spiece.model, with T5's sentinels after its pieces. Raises for a damaged
    one.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    # refuses damaged files, which protobuf may make something of
    pieces = SentencePieceProcessor(model_proto=spiece)
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto.FromString(spiece)
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
