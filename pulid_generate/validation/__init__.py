"""Does an identity hold? Prompts that try it, what the scores of the pictures come to, and a page
to look at.

    run      the order: draw, compare, report
    prompts  what an identity is tried with
    report   every picture, and the numbers made of them
    notes    what a reader must know to believe these
    formats  the report as JSON, and as a table
    page     the report as HTML
    charts   its plots
    style    its style sheet
    writing  the files

All but run know no model and draw nothing: pictures and scores come in. Those import no torch.
"""
