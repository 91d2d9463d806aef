"""What a file is, from its header, and whether this machine is ready.

    inspect.py     a file or folder -> what it is: kind, layout, numbers by type, memory
    facts.py       what the shapes of each kind of model say
    report.py      what was found, as values, and how it is shown
    readiness.py   `doctor`: whether a generation with these flags would work here
    companions.py  for it: LoRAs, ControlNets, a tiny autoencoder, what enlarges, what finds faces

Loads no model but one that enlarges, and imports torch only where a device is asked for.
"""
