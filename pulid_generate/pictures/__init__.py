"""A drawn picture: its file, its metadata, sheets of many, and how like a person it is. Imports no
torch.
"""
