"""LoRA: what is added to the outputs of linear layers while a model runs, and gone afterwards.

    choice.py         which files, and how strongly: flags, tags, names
    names.py          whose layer a tensor's name means: the spellings of the field
    peft.py           what peft says beside the matrices: alphas
    leaves.py         what the end of a tensor's name says, and what cannot be applied
    changes.py        what is added to one layer: low rank, LoHa, LoKr, DoRA
    decomposition.py  DoRA on a layer that has a weight
    files.py          a file -> its changes, by the names it uses
    hooks.py          changes -> forward hooks, and off again

Only the last four import torch.
"""
