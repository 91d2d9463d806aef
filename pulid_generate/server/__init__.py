"""HTTP and a page for the browser: requests become jobs, one thread draws them, events say how far
they are.

    http/           what is answered at which address; the command that listens
    intake/         what comes in: fields, files, names, portraits, sessions
    work/           jobs that wait, are in work or have ended; the thread that draws
    settings.py     the server's flags, read, and its limits
    failures.py     errors as JSON
    own_folders.py  folders of the server's files, and sentences without them

The page itself is in page/. Imports no torch.
"""
