"""Many pictures with models that are loaded once: rows judged, drawn, reported, scored, laid out;
the same on a Ray cluster.
"""
