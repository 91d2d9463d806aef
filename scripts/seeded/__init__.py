"""Model files that are pure functions of a seed: the public layouts at any size, and small sets
that the real libraries accept. Run with PYTHONPATH=scripts.
"""
