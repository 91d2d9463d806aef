"""What both command lines have in common.

    console.py          standard output and error, exit codes
    standard_output.py  kept free of what libraries print, open to lines of results
    flags.py            a dataclass of flags -> a command line
    help.py             --help: the basics first, groups, examples, words
    settings.py         pulid.toml: defaults of options, model files by role
    pull_options.py     of `pull`, in both programs
    wording.py          wrong usage in plain words
    interrupts.py       Ctrl-C that lets the work in hand be finished, and other signals
    heartbeat.py        a line now and then while long work goes on
    ending.py           the end of a program, without taking apart what is in memory

Imports no torch.
"""
