"""Which model files an extraction needs, where they come from, and their hashes. Imports no
torch.
"""
