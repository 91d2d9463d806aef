"""The networks of the identity stack, how several results become one, and a judge of prompts.

    devices.py       where networks run, with exact arithmetic, and memory that runs out
    onnx_runtime.py  onnxruntime, which reports nothing and warns of nothing
    checkpoint.py    tensors out of a file, strictly into a module
    folding.py       batch norms taken into the convolutions before them
    resnet.py        residual networks, as both of the next two have one
    retinaface.py    RetinaFace: a picture -> faces with landmarks
    bisenet.py       BiSeNet: a face -> which part of it every pixel is
    eva_tower.py     EVA02-CLIP's image tower as a module
    eva_clip.py      the same from its file: grey face -> pooled vector, hidden states
    idformer.py      IDFormer: features of portraits -> identity tokens
    fusion.py        are they one person, and averages of their tokens
    clip_text.py     EVA02-CLIP's text tower: token ids -> a vector like the pooled ones
    prompt_judge.py  does a picture show its prompt, by CLIP

fusion.py is numpy, onnx_runtime.py neither; the others are torch.
"""
