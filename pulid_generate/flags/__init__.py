"""Every flag, as tables. Imports no torch.

drawing          what is drawn, and along which steps
identity         who is in the picture, how strongly, and when
models           which files
placement        where models run, in what arithmetic and memory
output           what is written, and what is said
likeness         who pictures are compared with; how many seeds are tried
batch            where rows come from, and how many pictures are drawn at once
validation       what an identity is validated with
serve            where a server listens, and how much it takes
commands         which of these each command takes
names            how a field is written on the command line
sdcli            all of sd-cli's flags and what becomes of them
sdcli_arguments  how they are taken out of a command line
"""
