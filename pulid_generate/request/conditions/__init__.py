"""Pictures that a drawing is given: to start from, to refer to, to be controlled by.

    bundle.py             what one drawing refers to and is controlled by
    start_picture.py      the picture to start from, its mask, the final paste
    reference_picture.py  what Kontext reads beside the picture: sizes, places
    control_picture.py    what ControlNets read, how strongly, when
    canny.py              edges of a picture
    mask_edge.py          a mask's edge: grown, shrunk, feathered

Imports no torch.
"""
