"""The small world: people and scenes that a program draws, and a complete, trained miniature of
PuLID-FLUX that has learnt to draw them.

    people.py      who lives there: nineteen numbers, from a seed
    scenes.py      what a prompt can say of a picture, and what it cannot
    drawing.py     draws somebody in a scene, with exact truth
    prompts.py     a scene in words, and the vocabulary of a small T5
    dataset.py     drawings with their truth, kept as files
    networks/      what learns from them
    training/      how it learns, and the files that it becomes
    measuring/     what comes of it
    train.py       trains everything from seeds and writes the files
    studio.py      the studio on these models
    demo_files.py  what `pulid-generate demo` knows of them, made anew after a training
    models/        the files

Run with PYTHONPATH=scripts.
"""
