"""Does an identity hold? Prompts that try it, what the scores of the pictures come to, and a page
to look at.

Knows no model: pictures and scores come in. Only `run`, which draws them, imports torch.
"""
