"""Many portraits, one identity each.

    running.py      from judged rows to lines of results
    rows.py         every row judged before a file is looked for
    manifest.py     the columns of a manifest
    work.py         the two halves of a row's work
    results.py      what became of a row
    journal.py      what a batch has finished, by content
    worker.py       tasks line by line, answered as they come
    task_fields.py  the fields of such a task
    ray_command.py  the same, shared out to workers on a Ray cluster
    ray_worker.py   one such worker

Imports no torch.
"""
