"""All that pulid_generate may import of pulid_extract: file formats, errors, records, three
folders.

    errors.py          the error tree
    embedding_file.py  the .pulidembd format
    file_names.py      file names as people write them
    json_text.py       JSON that anybody may have written
    picture_file.py    picture files into upright pixels, or why not
    png_chunks.py      a PNG's texts and colour profile, of any size
    clip_words.py      CLIP's words, for prompts
    records.py         JSON Lines and CSV, each problem with its line
    requirements.py    what numbers must be, as people and CI write it
    writing.py         results written beside and renamed; folders
    locking.py         files and folders that are one process's alone
    background.py      work in another thread
    libraries.py       libraries that cannot be imported, and their cures
    home.py            where the project lives on the web
    telemetry.py       what libraries would report to their makers, switched off
    openmp.py          how OpenMP's threads wait
    captions.py        text on sheets of pictures
    cache_folder.py    where both programs keep what makes the next run faster
    cpu_linear.py      float32 products on a CPU through oneDNN
    cpu_bfloat16.py    whether a CPU multiplies bfloat16
    cli/               output, exit codes, interrupts, flags from tables
    cluster/           workers that share tasks, Ray
    model_files/       recognising, finding and fetching files by their headers

Imports no torch, but for `cpu_linear` and `cpu_bfloat16`.
"""
