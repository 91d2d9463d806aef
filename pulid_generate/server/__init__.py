"""HTTP and a page for the browser: requests become jobs, one thread draws them, events say how far
they are. The page itself is in page/.

running      the command: opens, listens, stops
app          routes and layers together
routes       what is answered at which address
state        the parts of one server, for who answers
safety       what every request must pass
submission   from a request to a job
fields       the names that a request may give, made from the flags' tables
uploads      bodies and files that come in
people       who can be named
extraction   portraits, by a process of their own
visitors     sessions and their folders
queue        jobs that wait, are in work, or have ended
jobs         one job, and its record on the disk
changes      waiting for another thread's changes
device       the thread that draws
drawing      the models that it draws with
previews     small pictures of a latent
metrics      numbers for Prometheus
failures     errors as JSON
settings     the flags, read; limits
"""
