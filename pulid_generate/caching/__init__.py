"""Steps that reuse what an earlier one computed, with the identity in it.

    evaluation.py  what a cache is asked for: one evaluation of the model, and who is in it
    easycache.py   the whole model's output, by sd-cli's rule
    blocks.py      what the middle blocks added, by cache-dit's rules
    forecast.py    the last residuals, or where they would have got to

An identity's layers run inside what is computed and are part of what is reused. Knows no prompt and
no sampler; a branch of guidance is a name.
"""
