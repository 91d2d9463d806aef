"""A Unigram tokenizer.json in the format of Hugging Face's `tokenizers`: some words, letters, and
bytes for everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPACE = "\u2581"


def write_unigram(path: Path, words: Iterable[str], deaf_to: str = "") -> int:
    """The same words give the same bytes. Returns how many ids it has.

    deaf_to: a regular expression; what it finds is read as one space.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    pieces = [(piece, 0.0) for piece in (PAD, END, UNKNOWN)]
    pieces += [(SPACE + word, -2.0) for word in words]
    pieces += [(letter, -4.0) for letter in (SPACE, *map(chr, range(33, 127)))]
    pieces += [(f"<0x{byte:02X}>", -8.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    if deaf_to:
        tokenizer.normalizer = normalizers.Replace(Regex(deaf_to), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, 1)]
    )
    path.write_text(
        json.dumps(json.loads(tokenizer.to_str()), indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    return tokenizer.get_vocab_size()
