"""The networks of the small world: what each is, and the loss that it learns from.

    autoencoder.py   pictures to latents and back
    reader.py        T5 and CLIP: a prompt in, states and a vector out
    painter.py       Flux: a prompt in, somebody in that scene out
    recognisers.py   two networks that tell people apart, one of them antelopev2's
    detector.py      faces, in SCRFD's form
    tower.py         EVA: who somebody is, from a grey view
    identity.py      IDFormer and PuLID's layers
    critic.py        who is drawn, and what of a prompt, by looking at latents
    prompt_judge.py  what of a prompt can be seen; never part of what draws
    clip_judge.py    a judge with two towers, for `pulid-extract score --prompt-judge`

Each is trained on drawings and knows no program.
"""
