"""What the small world shows: commands that print a table, and who judges for them.

    preservation.py  that the models preserve a face, through the two programs
    caches.py        what --cache-mode costs and wins
    fp8.py           what --compute fp8 costs
    small_faces.py   what the detail pass does for small faces
    seams.py         whether the edge of a pasted face can be seen
    judges.py        networks that see faces and scenes, and a gallery of portraits

Run with PYTHONPATH=scripts python -m micro_world.measuring.NAME.
"""
