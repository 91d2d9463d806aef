"""The networks of the identity stack: EVA-CLIP, IDFormer, how several results become one, and the
files they load from.
"""
