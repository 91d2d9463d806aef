"""Where many pictures come from: a manifest, a grid, values of options; and their names. Imports no
torch.

    sources.py   a command's flags -> its rows
    manifest.py  JSON Lines or CSV -> rows, and problems with their lines
    columns.py   what a row may give, and how it is read
    grid.py      every prompt with every identity with every seed
    axes.py      the values of one or two options
    row.py       one row, over the command's own flags
    items.py     one picture of a row; the order in which nothing loads twice
    names.py     what the pictures are called
    folders.py   the folders that they are written to
"""
