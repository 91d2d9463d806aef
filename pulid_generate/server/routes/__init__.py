"""What is answered at which address.

jobs     our own: every option, a queue to look at, events, pictures
openai   OpenAI's shape
webui    AUTOMATIC1111's shape
people   identities, faces, crops
studio   the page for the browser, and its session
health   whether it lives, is ready, and how it does
"""
