"""The whole toolkit on one page, on the small world's models: four drawn people, five prompts, one
sheet.

    world.py    the small world: its models, where they are or come from, the flags it wants
    scenes.py   who is drawn, and where: portraits, prompts, the rows of a batch
    running.py  the order: extract, draw, score, prove, lay out
    layout.py   the sheet, of what the commands said

Runs both programs as a user would, and shows their command lines. Imports no torch.
"""
