"""Which model files an extraction needs, where they come from, and their hashes.

    roles.py           the parts that come from files: a table
    kits.py            what `pull` fetches: a table
    antelopev2_zip.py  antelopev2 out of InsightFace's own archive
    model_set.py       the files of one extraction, found and recognised
    readiness.py       whether an extraction would work here
    file_hashes.py     SHA-256 of model files, remembered

Imports no torch.
"""
