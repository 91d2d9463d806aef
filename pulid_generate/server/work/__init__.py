"""Jobs, and the thread that draws them.

    queue.py     jobs that wait, are in work, or have ended
    jobs.py      one job, and its record on the disk
    changes.py   waiting for another thread's changes
    device.py    the thread
    drawing.py   the models that it draws with
    metrics.py   numbers for Prometheus

Imports no torch.
"""
