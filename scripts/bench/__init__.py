"""What the programs cost and whether they hold: the tables of docs/performance.md, files of the
published sizes, and a batch that is killed again and again. Run with PYTHONPATH=scripts.
"""
