"""The networks of a generation as torch modules of our own, so that a start imports torch alone.

    flux.py         the transformer: double and single blocks under diffusers' names
    embeddings.py   time, guidance and CLIP's vector in one vector
    positions.py    times and places as sines and cosines
    clip.py         CLIP-L's text tower under transformers' names
    t5.py           T5's encoder under transformers' names
    tiny_autoencoder.py  the tiny autoencoder of Flux's latents
    autoencoder.py  the autoencoder under diffusers' names
    tables.py       vectors by number, without values until they are loaded

Parameters carry the names that the stock classes of diffusers and transformers give them, and
Flux's blocks the same interface, so that `inject` and LoRA files serve both; each network equals
its stock class by test. Knows nothing of files: sizes come as arguments.
"""
