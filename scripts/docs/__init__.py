"""What writes the generated parts of docs/, or checks that they are current.

api_reference.py  docs/api.md: the public names
cli_reference.py  docs/cli.md: the help texts
folder_tables.py  docs/architecture.md: the tables of folders, and their order
sdcli_table.py    docs/sd-cli.md: the table of sd-cli's flags
studio_pictures.py  docs/studio.png, docs/studio_phone.png: the studio, in a browser
page.py           a page is written, or compared with what is there
"""
