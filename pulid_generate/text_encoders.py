"""CLIP-L and T5: a prompt -> the pooled vector and the token states that condition Flux.

Sizes come from the tensors; what tensors cannot tell is a constant below. Knows nothing of Flux or of pictures.

Sources: openai/clip-vit-large-patch14 and google/t5-v1_1-xxl config.json; black-forest-labs/flux src/flux/modules/conditioner.py
(lengths, padding, no attention mask).
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pulid_extract.model_files import Header, Role, Source, cached, fetch, is_offline
from pulid_generate.errors import CheckpointError, RequestError
from pulid_generate.tensor_files import depth_of, load_strictly, read_tensors

CLIP_MARKER = "text_model.embeddings.token_embedding.weight"  # tensors that only these models have
T5_MARKER = "encoder.block.0.layer.0.SelfAttention.q.weight"
HEAD_WIDTH = 64  # CLIP-L and T5 (d_kv); the tensors give only heads * width
CLIP_LENGTH = 77
T5_PAD = 0
T5_LONGEST = 512  # BFL's length for dev; Flux was not trained beyond
T5_MAX_DISTANCE = 128  # relative_attention_max_distance of every T5

PROBE = "a photo of a cat"
# what a T5 file lacks: its vocabulary
T5_TOKENIZER = Role(
    "T5 tokenizer",
    "--t5-tokenizer",
    (),
    Source(repo="google/t5-v1_1-xxl", files=("spiece.model",), licence="Apache-2.0"),
    fetch=True,
)

Note = Callable[[str], None]


class ClipText:
    """CLIP-L's text tower and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, header: Header, dtype: torch.dtype, device: torch.device | str = "cpu") -> ClipText:
        """From clip_l.safetensors (`text_model.*`). Raises CheckpointError."""
        from transformers import CLIPTextConfig, CLIPTextModel

        prefix = "text_model."
        state = dict(read_tensors(header, CLIP_MARKER, device, dtype))
        # not part of the tower: a buffer of old exports, and the projection heads of all-in-one files
        for name in (f"{prefix}embeddings.position_ids", "logit_scale", "text_projection", "text_projection.weight"):
            state.pop(name, None)
        try:
            rows, width = state[CLIP_MARKER].shape
            config = CLIPTextConfig(
                vocab_size=rows,
                hidden_size=width,
                intermediate_size=state[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
                num_hidden_layers=depth_of(state, f"{prefix}encoder.layers"),
                num_attention_heads=width // HEAD_WIDTH,
                max_position_embeddings=state[f"{prefix}embeddings.position_embedding.weight"].shape[0],
                hidden_act="quick_gelu",
                layer_norm_eps=1e-5,
                projection_dim=width,
                bos_token_id=0,
                eos_token_id=2,  # 2 makes transformers pool at the largest id, the end token, as the original does
                pad_token_id=1,
            )
        except KeyError as error:
            raise CheckpointError(f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again") from None
        with torch.device("meta"):
            model = CLIPTextModel(config)
        # transformers 5 dropped the `text_model.` prefix of this class; follow the class that is installed
        strip = not any(name.startswith(prefix) for name in model.state_dict())
        state = {name.removeprefix(prefix) if strip else name: tensor for name, tensor in state.items()}
        load_strictly(model, state, header)
        # a buffer built on meta stays there, and indexing with it gives wrong states without an error
        for module in model.modules():
            if "position_ids" in dict(module.named_buffers(recurse=False)):
                positions = torch.arange(config.max_position_embeddings, device=device)[None]
                module.register_buffer("position_ids", positions, persistent=False)
        return cls(model, clip_tokenizer())

    def encode(self, prompt: str, note: Note = lambda text: None) -> Tensor:
        """The pooled vector (1, width) of a prompt, cut to 77 tokens as the reference does."""
        ids = self.tokenizer(prompt, truncation=False)["input_ids"]
        if len(ids) > CLIP_LENGTH:
            note(f"CLIP reads the first {CLIP_LENGTH - 2} of the prompt's {len(ids) - 2} tokens; T5 reads all")
        ids = self.tokenizer(prompt, padding="max_length", max_length=CLIP_LENGTH, truncation=True, return_tensors="pt")[
            "input_ids"
        ]
        _check_ids(ids, self.model.config.vocab_size, "CLIP")
        return self.model(ids.to(self.model.device)).pooler_output


class T5Text:
    """T5's encoder and its tokenizer."""

    @property
    def whole(self) -> tuple[type, ...]:
        """Classes to widen as one unit: this one looks at wo's dtype before it runs wo, and would cut activations to 16 bits."""
        from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

        return (T5DenseGatedActDense,)

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, header: Header, tokenizer: Path, dtype: torch.dtype | None, device: torch.device | str = "cpu") -> T5Text:
        """From t5xxl_*.safetensors. dtype None keeps the file's 16 bits. Raises CheckpointError."""
        from transformers import T5Config, T5EncoderModel

        words = read_t5_tokenizer(tokenizer)  # first: it is quick
        state = dict(read_tensors(header, T5_MARKER, device, dtype))
        # some files store the embedding twice, some once, under either name
        embedding = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
        block = "encoder.block.0.layer."
        try:
            if embedding is None:
                raise KeyError("shared.weight")
            buckets, heads = state[f"{block}0.SelfAttention.relative_attention_bias.weight"].shape
            config = T5Config(
                vocab_size=embedding.shape[0],
                d_model=embedding.shape[1],
                d_ff=state[f"{block}1.DenseReluDense.wi_0.weight"].shape[0],
                num_layers=depth_of(state, "encoder.block"),
                num_heads=heads,
                d_kv=state[f"{block}0.SelfAttention.q.weight"].shape[0] // heads,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=buckets,
                relative_attention_max_distance=T5_MAX_DISTANCE,
                layer_norm_epsilon=1e-6,
                is_encoder_decoder=False,
                use_cache=False,
            )
        except KeyError as error:
            raise CheckpointError(f"{header.path}: missing {error.args[0]}; the file is incomplete, download it again") from None
        state |= {"shared.weight": embedding, "encoder.embed_tokens.weight": embedding}
        with torch.device("meta"):
            model = T5EncoderModel(config)
        load_strictly(model, state, header)
        model.encoder.embed_tokens.weight = model.shared.weight
        return cls(model, words)

    def tokens(self, prompt: str, length: int, note: Note = lambda text: None) -> Tensor:
        """Ids (1, length), end token included, padded with 0; a longer prompt takes 512 and says so.

        Raises RequestError for a prompt of more than 512 tokens.
        """
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > T5_LONGEST:
            raise RequestError(f"the prompt has {len(ids)} T5 tokens, the most that Flux reads is {T5_LONGEST}; shorten it")
        if len(ids) > length:
            note(f"the prompt has {len(ids)} T5 tokens, more than {length}: using {T5_LONGEST}")
            length = T5_LONGEST
        padded = torch.tensor([ids + [T5_PAD] * (length - len(ids))])
        _check_ids(padded, self.model.config.vocab_size, "T5")
        return padded

    def encode(self, ids: Tensor) -> Tensor:
        """States (1, T, width) of ids (1, T). No attention mask: Flux was trained with the padding attended to."""
        return self.model(input_ids=ids.to(self.model.device)).last_hidden_state


def clip_tokenizer() -> Any:
    """OpenAI's CLIP tokenizer, from the vocabulary inside the open_clip package. Raises CheckpointError if that is missing."""
    from transformers import CLIPTokenizer

    # find_spec does not import open_clip, which takes seconds
    spec = importlib.util.find_spec("open_clip")
    path = Path(str(spec.origin)).parent / "bpe_simple_vocab_16e6.txt.gz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise CheckpointError("CLIP vocabulary: the open_clip package is missing; pip install 'pulid-flux-toolkit[generate]'")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]  # open_clip/tokenizer.py, SimpleTokenizer
    letters = list(_byte_letters())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def find_t5_tokenizer(given: str | Path | None, folders: Iterable[Path]) -> Path:
    """The file of T5's vocabulary.

    given: a folder, a tokenizer.json or a spiece.model; None looks in `folders`, then in the Hugging Face cache, then on the hub.
    Raises WeightsError.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.exists():
            raise CheckpointError(f"{path}: no such T5 tokenizer; give a folder, a tokenizer.json or a spiece.model")
        found = _tokenizer_in(path) if path.is_dir() else path
        if found is None:
            raise CheckpointError(f"{path}: holds no tokenizer.json and no spiece.model; give one of them")
        return found
    searched = list(folders)
    found = next(filter(None, map(_tokenizer_in, searched)), None) or cached(T5_TOKENIZER.source)
    if found is None and is_offline():
        where = " nor in ".join(map(str, searched))
        raise CheckpointError(f"T5 tokenizer: neither in {where} nor in the Hugging Face cache; give {T5_TOKENIZER.flag} FILE")
    return found or fetch(T5_TOKENIZER, Path())


def _tokenizer_in(folder: Path) -> Path | None:
    return next((folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()), None)


def read_t5_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` that ends every prompt with </s>. Raises CheckpointError for a damaged file."""
    from tokenizers import Tokenizer

    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from sentencepiece import SentencePieceProcessor
            from transformers import T5Tokenizer

            pieces = SentencePieceProcessor(
                model_file=str(path)
            )  # refuses damaged files; transformers makes something of an empty one
            # T5Tokenizer(vocab_file=...) gives a tokenizer of 104 words without a word of warning; a folder loads correctly
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(path, Path(folder) / "spiece.model")
                tokenizer = T5Tokenizer.from_pretrained(folder).backend_tokenizer
            if tokenizer.encode(PROBE).ids[:-1] != pieces.encode(PROBE):
                raise ValueError("transformers and sentencepiece read it differently")
    except Exception as error:  # the libraries raise bare Exceptions and protobuf errors of many kinds
        raise CheckpointError(
            f"{path}: not a T5 tokenizer, or damaged ({str(error).splitlines()[0]}); download it again"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.encode("a").ids[-1:] != [tokenizer.token_to_id("</s>")]:
        raise CheckpointError(
            f"{path}: does not end a prompt with </s>; it is not a T5 tokenizer, give the one of google/t5-v1_1-xxl"
        )
    return tokenizer


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of CLIP's vocabulary. Source: openai/gpt-2 encoder.py."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _check_ids(ids: Tensor, rows: int, name: str) -> None:
    if int(ids.max()) >= rows:
        raise CheckpointError(
            f"{name} tokenizer gives id {int(ids.max())}, the encoder has {rows} rows; they do not belong together"
        )
