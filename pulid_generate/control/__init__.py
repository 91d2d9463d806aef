"""ControlNets for Flux: files, models, and what they add to Flux's blocks.

    files.py      which ControlNet a file is, from its header
    loading.py    the file as diffusers' model
    residuals.py  what it predicts of a step, added after Flux's blocks

diffusers is imported only when a ControlNet loads. Knows no prompt and no flag.
"""
