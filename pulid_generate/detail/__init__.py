"""The detail pass in pure stages: whose face is which, what is cut out of a picture, and how it is
put back.

    faces.py   a face that was found, and the order in which faces count
    choice.py  whose face is which
    crops.py   a face cut out with a margin, and put back through a feathered mask

Imports no torch.
"""
