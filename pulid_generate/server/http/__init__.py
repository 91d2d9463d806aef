"""What is answered at which address, and the command that listens.

    running.py      opens, listens, stops
    cluster.py      workers of a cluster that draw, if there are any
    app.py          all of it together
    protocol.py     one connection: how long a request's head may take
    safety.py       what every request must pass before it is read
    state.py        the parts of one server, for who answers
    jobs.py         our own routes: every option, a queue to look at, events, pictures
    likeness.py     how like the person a picture is
    validations.py  does an identity hold: the command's report
    openai.py       OpenAI's shape
    webui.py        AUTOMATIC1111's shape
    people.py       identities, faces, crops
    studio.py       the page for the browser, and its session
    reference.py    every route and field as a page for people
    health.py       whether it lives, is ready, and how it does

Imports no torch.
"""
