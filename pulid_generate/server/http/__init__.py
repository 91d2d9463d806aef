"""What is answered at which address, and the command that listens.

running  opens, listens, stops
app      all of it together
safety   what every request must pass before it is read
state    the parts of one server, for who answers
jobs     our own routes: every option, a queue to look at, events, pictures
openai   OpenAI's shape
webui    AUTOMATIC1111's shape
people   identities, faces, crops
studio   the page for the browser, and its session
health   whether it lives, is ready, and how it does
"""
