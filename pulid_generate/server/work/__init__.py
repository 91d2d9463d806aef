"""Jobs, and the thread that draws them.

queue     jobs that wait, are in work, or have ended
jobs      one job, and its record on the disk
changes   waiting for another thread's changes
device    the thread
drawing   the models that it draws with
previews  small pictures of a latent
metrics   numbers for Prometheus
"""
