"""Jobs, and the threads that draw them.

    queue.py          jobs that wait, are in work, or have ended
    jobs.py           one job, and its record on the disk
    changes.py        waiting for another thread's changes
    devices.py        all threads that draw
    device.py         one of them
    judging.py        what a job comes to
    drawing.py        the models that draw it
    worker_drawer.py  drawing in another process
    ray_worker.py     that process, of a Ray cluster
    metrics.py        numbers for Prometheus
    memory.py         of this process

Imports no torch.
"""
