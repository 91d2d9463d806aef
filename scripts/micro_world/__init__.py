"""The small world: people and scenes that a program draws, and a complete, trained miniature of
PuLID-FLUX that has learnt to draw them.

`people` and `scenes` say what there is, `drawing` draws it with exact truth, `prompts` puts a scene
into words. The other modules train.
"""
