"""Does an identity hold? Prompts that try it, what the scores of the pictures come to, and a page
to look at.

Knows no model and draws nothing: pictures and scores come in. Imports no torch.
"""
