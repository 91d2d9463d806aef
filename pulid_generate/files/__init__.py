"""Model files from their headers, and Flux's numbers.

    model           the four models of a generation, each with one name
    layouts         Flux's numbers, and the names of its tensors in both spellings
    storage         how tensors are stored: types, bytes, scales, and what cannot be read
    roles           the parts of a generation and the files that can fill them
    model_set       the files of one generation: found, recognised, told by role
    t5_vocabulary   where T5's vocabulary is
    kits            what `pull` fetches

Imports no torch.
"""
