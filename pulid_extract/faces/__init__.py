"""Faces as numbers: which one is meant, how good it is, how like another it is.

    antelopev2.py    insightface: boxes with landmarks, ArcFace vectors
    crop.py          as facexlib does: landmarks, alignment, parsing, grey on white
    choice.py        which face is meant: boxes in, an index out
    head_pose.py     yaw, pitch and roll from five landmarks
    quality.py       measures of one face, advice, a number from 0 to 1
    listing.py       every face of a photograph: records, table, drawing
    recognizer.py    one ArcFace-shaped network by itself
    scoring.py       cosines, and what many of them come to
    scorer.py        pictures compared with references and strangers
    score_report.py  scores as table, JSON and contact sheet

Torch comes with crop.py and listing.py only.
"""
