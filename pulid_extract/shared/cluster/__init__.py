"""Work shared out to several processes, by Ray where they are on a cluster. Imports no torch, and
Ray only when it is asked for.
"""
