"""A drawn picture: its file, its metadata, sheets of many, and how like a person it is. Imports no
torch.

    picture.py          pixels -> the bytes of a PNG, JPEG or WebP, and the text in them
    description.py      that text: what made the picture
    saving.py           the names of several, and the line that each gets on standard output
    scorer.py           how like a person pictures are, by asking pulid-extract score
    score_lines.py      what a line of its JSON says
    previews.py         small previews of latents: a colour for each cell
    extract_process.py  pulid-extract worker, a line in and a line out
    face_finder.py      where faces are and how like somebody, by asking pulid-extract worker
    three_way.py        the check that weight 0 draws what no PuLID at all draws
    sheet.py            a grid of many -> files
    sheet_grid.py       what a sheet shows
    sheet_layout.py     where everything goes on its pages
    sheet_page.py       the drawing of one page
"""
