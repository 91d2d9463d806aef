"""One portrait to one identity: the order of the stages, what a command needs around them, and the
cache of results.
"""
