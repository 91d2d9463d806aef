"""Many pictures with models that are loaded once: rows judged, drawn, reported, scored, laid out;
the same on a Ray cluster.

    command.py      `batch`: all rows
    serving.py      `batch -`: a line in, a line out
    judging.py      one row -> its pictures, or what is wrong with it
    checking.py     all rows, and every problem with its place
    row_files.py    files that rows read: remembered, and not overwritten
    running.py      each picture decoded, written and told of beside the denoising of the next
    lines.py        a line of results
    results.py      scores and a sheet from the lines of results
    sheet.py        identities down, prompts across
    detailing.py    pictures that are there, their faces redrawn
    sweep.py        `sweep`: values of options as rows
    sweep_lines.py  what `sweep` prints of each picture
    best_of.py      `--best-of N`: draw, score, keep one
    ray_command.py  `batch --ray`: share rows out, write what comes back
    ray_worker.py   one worker: pictures as bytes
"""
