"""Where many pictures come from: a manifest, a grid, values of options; and their names. Imports no
torch.
"""
