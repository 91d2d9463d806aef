"""Words, weighted words, and their ids.

    prompt.py          a prompt's text: its file, its LoRA tags
    prompt_weights.py  (word:1.3) -> parts of a prompt and their weights
    tokens.py          a prompt in the ids that the text encoders read

Imports no torch.
"""
