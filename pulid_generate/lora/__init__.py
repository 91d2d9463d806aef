"""LoRA: low-rank products added to the outputs of linear layers while a model runs, and gone
afterwards.

    choice.py  which files, and how strongly: flags, tags, names
    names.py   whose layer a tensor's name means: the spellings of the field
    peft.py    what peft says beside the matrices: alphas
    files.py   a file -> its products, by the names it uses
    hooks.py   products -> forward hooks, and off again

Only files and hooks import torch.
"""
