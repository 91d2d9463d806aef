"""Where many pictures come from: a manifest, a grid, values of options; and their names. Imports no
torch.

    sources   a command's flags -> its rows
    manifest  JSON Lines or CSV -> rows, and problems with their lines
    columns   what a row may give, and how it is read
    grid      every prompt with every identity with every seed
    axes      the values of one or two options
    row       one row, over the command's own flags
    items     one picture of a row; the order in which nothing loads twice
    names     what the pictures are called
    folders   the folders that they are written to
"""
