"""How a network is trained, and the files that it becomes.

    loop.py        one way to train every network, and a checkpoint to go on from
    export.py      trained networks as the public files
    onnx_files.py  convolutional networks of torch as ONNX files that insightface accepts
    plot.py        the losses of every network as one picture

`python -m micro_world.train` does it for all of them, in their order.
"""
