"""What comes in, until it is a job that can be drawn.

    submission.py          from a request to a job
    fields.py              the names that a request may give, made from the flags' tables
    uploads.py             bodies and files
    people.py              who can be named
    restoring.py           fields of a request from a picture's metadata
    compared.py            what a picture was made with against what is here
    portraits.py           what pictures of a person can be compared with
    validation.py          many jobs, and what their pictures come to
    validation_fields.py   what is asked of it
    validation_records.py  one of these, and its record on the disk
    extraction.py          portraits, by a process of their own
    visitors.py            sessions and their folders

Imports no torch.
"""
