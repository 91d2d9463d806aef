"""Model files from their headers, and Flux's numbers.

    model.py          the four models of a generation, each with one name
    kontext.py        whether a Flux file is FLUX.1 Kontext
    layouts.py        Flux's numbers, and the names of its tensors in both spellings
    storage.py        how tensors are stored: types, bytes, scales, and what cannot be read
    fp8_layers.py     which of Flux's layers multiply in 8-bit floating point
    roles.py          the parts of a generation and the files that can fill them
    model_set.py      the files of one generation: found, recognised, told by role
    read_ahead.py     files into the page cache while the libraries load
    t5_vocabulary.py  where T5's vocabulary is
    patterns.py       regular expressions out of files: those that cannot take long
    kits.py           what `pull` fetches

Imports no torch.
"""
