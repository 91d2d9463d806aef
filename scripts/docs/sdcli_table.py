"""Write docs/sd-cli.md, what becomes of every flag of sd-cli, or check that it is current.

    make docs        (or: PYTHONPATH=scripts python -m docs.sdcli_table [--check])

The table is pulid_generate/flags/sdcli/table.py. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from docs.page import write_or_check
from pulid_generate.flags.sdcli.flag import SdFlag
from pulid_generate.flags.sdcli.table import GROUPS, SD_FLAGS

TARGET = Path(__file__).resolve().parents[2] / "docs" / "sd-cli.md"
INTRODUCTION = """\
# Coming from sd-cli

Made from pulid_generate/flags/sdcli/table.py by `make docs`; edit the table there, not this file.

A command line for sd-cli (stable-diffusion.cpp 97d29908) runs here as it stands, or says why it cannot. Each of sd-cli's {total} flags is

- **implemented** ({implemented}): our option of the same name; what differs is said here and in `--help`;
- **noted** ({noted}): accepted with its value; it has nothing to change, and a line on standard error says so;
- **refused** ({refused}): exit code 2 and one line with the reason, before anything loads.

A flag that sd-cli does not know is wrong usage here as well. Flags that newer builds have brought
are known too, {newer} of them; the table says since when. Newer builds are said to count
`--vae-tile-size` in pixels: here it is latents of 8 pixels, and a tile that is larger than the
picture is noted.
"""
SYNTAX = """\
## How values are written

As sd-cli writes them, and in some cases more freely:

| value | sd-cli | here |
|---|---|---|
| any | the next word | the next word, or after an equals sign |
| --backend, --params-backend | `cpu`, or `te=cpu,vae=cuda0`; names in any case | the same; `cuda:0` and `mps` too |
| --max-vram | GiB; `cuda0=6,cuda1=2` for each device; negative: that much stays free; 0: no limit | the same |
| --skip-layers | `[7,8,9]`, brackets required | brackets optional |
| --sigmas | `1.0,0.5,0`, brackets optional | the same |
| --vae-tile-size | `32x32` or `32`, in latents of 8 pixels | the same |

The modules of --backend are diffusion (also model, unet, dit), te (also clip, text, t5, t5xxl, cond: CLIP and T5 together) and vae (also
autoencoder, firststage, tae); all, default or `*` is every module. Modules that do not exist here (controlnet, upscaler and so on) are
accepted and have no effect. The more specific wins: --device, then --backend without a module, then --clip-on-cpu and --vae-on-cpu, then
--backend for a module. Likewise --offload-to-cpu stands for `*=cpu` in --params-backend, and what --params-backend says of a module wins.
"""


def page() -> str:
    """The whole text of docs/sd-cli.md."""
    theirs = [flag for flag in SD_FLAGS if not flag.since]
    counts = Counter(flag.status for flag in theirs)
    newer = len(SD_FLAGS) - len(theirs)
    parts = [INTRODUCTION.format(total=len(theirs), newer=newer, **counts), SYNTAX]
    for title, flags in GROUPS.items():
        rows = "\n".join(
            f"| {', '.join(flag.names)} | {flag.status} | {_text(flag)} |" for flag in flags
        )
        parts.append(f"## {title}\n\n| sd-cli | here | |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _text(flag: SdFlag) -> str:
    times = []
    if flag.since:
        times.append(f"since: {flag.since}")
    if flag.until:
        times.append(f"until: {flag.until}")
    return "; ".join([part for part in (_meaning(flag), *times) if part])


def _meaning(flag: SdFlag) -> str:
    if not flag.accepts:
        return flag.text
    return f"{' or '.join(flag.accepts)}: {flag.text}; anything else is refused: {flag.otherwise}"


def main() -> None:
    write_or_check(TARGET, page(), "the table says")


if __name__ == "__main__":
    main()
