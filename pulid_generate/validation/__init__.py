"""Does an identity hold? Prompts that try it, what the scores of the pictures come to, and a page
to look at.

    run.py        the order: draw, compare, report
    prompts.py    what an identity is tried with
    comparing.py  scores of the pictures, what the identity changed, how heads are turned
    report.py     every picture, and sums over them
    measures.py   the numbers made of these, by name, and what is required of them
    notes.py      what a reader must know to believe these
    formats.py    the report as JSON, and as a table
    page.py       the report as HTML
    charts.py     its plots
    style.py      its style sheet
    writing.py    the files

All but run know no model and draw nothing: pictures and scores come in. Those import no torch.
"""
