"""What to draw, as values: prompt, size, schedule, people, regions, the picture to start from.

    generation      one request: every number and word of it, checked
    prompt          a prompt's text: its file, its LoRA tags
    prompt_weights  (word:1.3) -> parts of a prompt and their weights
    tokens          a prompt in the ids that the text encoders read
    people          the text of one --identity; several embeddings as one person, or several people
    id_schedule     at which steps an identity is seen, and how strongly
    regions         where in the picture somebody is
    skip_guidance   which layers are skipped, how strongly, when
    start_picture   the picture to start from, its mask, the final paste
    tiling          tiles of the autoencoder
    job             one picture, fitted to a model: all that decides its pixels but the files

Imports no torch.
"""
