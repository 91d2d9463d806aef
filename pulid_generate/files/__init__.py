"""Model files from their headers: roles, kits, the set of one generation, and Flux's names and
numbers. Imports no torch.
"""
