"""Many portraits, one identity each: rows, the journal of what is finished, the work itself, and
the same on a Ray cluster.
"""
