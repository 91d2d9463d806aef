"""What comes in, until it is a job that can be drawn.

submission  from a request to a job
fields      the names that a request may give, made from the flags' tables
uploads     bodies and files
people      who can be named
extraction  portraits, by a process of their own
visitors    sessions and their folders
"""
