"""Many pictures with models that are loaded once: rows judged, drawn, reported, scored, laid out;
the same on a Ray cluster.

    command      `batch`: all rows
    serving      `batch -`: a line in, a line out
    judging      one row -> its pictures, or what is wrong with it
    checking     all rows, and every problem with its place
    row_files    files that rows read: remembered, and not overwritten
    running      each picture decoded, written and told of beside the denoising of the next
    lines        a line of results
    results      scores and a sheet from the lines of results
    references   whom the pictures of a row are compared with
    sheet        identities down, prompts across
    sweep        `sweep`: values of options as rows
    best_of      `--best-of N`: draw, score, keep one
    ray_command  `batch --ray`: share rows out, write what comes back
    ray_worker   one worker: pictures as bytes
"""
