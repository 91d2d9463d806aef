"""Files to torch modules: Flux, T5, CLIP-L and the autoencoder, and what prompts are read with.

    tensor_files.py      the tensors of a file of any format, and strict loading
    upload.py            a mapped file's tensors to a GPU, without a copy in main memory
    flux.py              Flux files -> diffusers' transformer
    t5.py                T5: ids of a prompt -> the token states that condition Flux
    clip.py              CLIP-L: ids of a prompt -> the pooled vector that conditions Flux
    autoencoder.py       the autoencoder, and its two ways: latents -> pictures, and back
    tiny_autoencoder.py  the tiny autoencoder in the place of Flux's own
    upscaler.py          networks that enlarge a finished picture
    tiles.py             a map computed in overlapping tiles
    tokenizers.py        the tokenizers of CLIP-L and T5, from their vocabularies
    tokenizer_json.py    a tokenizer.json, checked before the library sees it
    charsmap.py          a sentencepiece normaliser's table, checked
    prompt_reader.py     prompts read into tokens, once, and judged
    weighted_prompts.py  (word:1.3) as sd-cli reads it

Knows no identity and no step.
"""
