"""Every command's flags, as tables, and what their texts mean.

    groups.py         the groups that several commands take
    extract.py        of one extraction
    batch.py          of `batch`
    faces.py          of `faces`
    score.py          of `score`
    worker.py         of `worker`
    doctor.py         of `doctor`
    help_pages.py     what stands first in the --help of each command
    face_choice.py    which face and which boxes the flags mean
    portrait_list.py  several names in a row behind --portrait
    outputs.py        outputs that could not be written, or would overwrite an input

Imports no torch.
"""
