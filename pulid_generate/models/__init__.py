"""Files to torch modules: Flux, T5, CLIP-L, the autoencoder, tokenizers, and what they read tensors
with.
"""
