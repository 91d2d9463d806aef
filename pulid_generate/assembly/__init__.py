"""Flags become a request, people, pictures and a pipeline: what every command that draws needs.

    usage.py     what is wrong with the flags, which have no effect, which files they read
    detail.py    the settings of a detail pass
    references.py  pictures of people: whom pictures are compared with, whose face is whose
    people.py    everybody whom the flags name: file, weight, window, region
    requests.py  the request, the people, the starting picture and the LoRAs of one drawing
    opening.py   files, placement, the pipeline and the engine
    progress.py  what a person at the terminal sees

Imports no torch until something is opened.
"""
