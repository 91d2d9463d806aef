"""Workers: tasks that several processes share, by Ray where these are on a cluster.

    dispatch.py     which worker gets which task, deaths, retries, one answer for each
    actor.py        the process of one worker, and what it replies
    ray_workers.py  joining a cluster, places for workers, one actor for each
    ray_process.py  one actor, asked meanwhile how far it is
    flags.py        --ray and --cpus-per-worker

Imports no torch, and Ray only when it is asked for.
"""
