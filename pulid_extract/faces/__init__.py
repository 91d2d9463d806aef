"""Faces as numbers: which one is meant, how good it is, how like another it is, and how it is found
and cropped.
"""
