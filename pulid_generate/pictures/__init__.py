"""A drawn picture: its file, its metadata, sheets of many, and how like a person it is. Imports no
torch.

    picture       pixels -> the bytes of a PNG, JPEG or WebP, and the text in them
    description   that text: what made the picture
    saving        the names of several, and the line that each gets on standard output
    scorer        how like a person pictures are, by asking pulid-extract score
    three_way     the check that weight 0 draws what no PuLID at all draws
    sheet         a grid of many -> files
    sheet_grid    what a sheet shows
    sheet_layout  where everything goes on its pages
    sheet_page    the drawing of one page
"""
