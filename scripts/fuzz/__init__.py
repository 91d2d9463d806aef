"""Hostile input for every reader of both packages: mutated files, records and texts.

readers.py     what reads what strangers send
good_input.py  good input of each, to start from
mutations.py   good input -> hostile input, from a seed
trying.py      one reader on one input: what came of it, how long it took, how much memory
__main__.py    many of them, and the kinds of what went wrong
"""
