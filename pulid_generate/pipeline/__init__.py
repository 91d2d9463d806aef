"""The order of the stages: requests fitted to files, models loaded, texts encoded, latents
denoised, pictures decoded.
"""
