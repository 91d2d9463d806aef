"""One portrait to one identity: the order of the stages, and the cache of results.

    opening.py          a command's flags -> model files, Extractor
    extractor.py        the order, and the devices
    locating.py         which face, and where
    cutting.py          the aligned crop, and whether a face is left in it
    identity.py         the values that pass between the stages
    job.py              what is to be extracted, read and checked before any network
    stages.py           a job's two halves: portraits to faces, faces to a file
    comparison.py       whether several portraits are one person
    results.py          what came of it, as records
    single.py           one extraction of a command line, from checks to a result
    pictures.py         what a person may look at: face, crop, preview
    result_cache.py     what earlier extractions left for this one
    embedding_cache.py  encrypted, bounded entries
    judging.py          what `score` judges with: detector, recognisers, judge of prompts

Torch comes with extractor.py, cutting.py, locating.py and identity.py only.
"""
