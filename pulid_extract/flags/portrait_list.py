"""What a shell makes of `--portrait *.jpg`: several names in a row behind one --portrait, in front
of the sub-commands.
"""

from __future__ import annotations

import os
from typing import Any

from pulid_extract.flags.help_pages import PAGES
from pulid_extract.shared.cli.help import HelpGroup

PORTRAIT = "--portrait"


class PortraitGroup(HelpGroup):
    """Sub-commands beside a root command whose --portrait takes several names in a row."""

    pages = PAGES

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's; `args` as typed."""
        takes_value: dict[str, bool] = {}
        for parameter in self.get_params(ctx):
            if hasattr(parameter, "is_flag"):
                takes_value |= dict.fromkeys(parameter.opts, not parameter.is_flag)
        return super().parse_args(ctx, repeat_portrait(args, takes_value, set(self.commands)))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click's, with a word for who named a picture instead of a command."""
        word = args[0]
        # which, unlike Path, takes a name of any length
        if word not in self.commands and os.path.exists(word):
            program = ctx.find_root().info_name
            ctx.fail(
                f"No such command '{word}'. To extract from it: "
                f"{program} {PORTRAIT} {word} --out me.pulidembd"
            )
        return super().resolve_command(ctx, args)


def repeat_portrait(args: list[str], takes_value: dict[str, bool], commands: set[str]) -> list[str]:
    """`--portrait a.jpg b.jpg` -> `--portrait a.jpg --portrait b.jpg`, up to the next option or the
    name of a sub-command.

    takes_value: option -> whether a value follows. A file that has a sub-command's name is a
    portrait here.
    """
    done: list[str] = []
    rest = iter(args)
    in_portraits = False
    for word in rest:
        if word.startswith("-") and word != "-":
            name, glued, _ = word.partition("=")
            in_portraits = name == PORTRAIT
            done.append(word)
            if word == "--":
                break
            if not glued and takes_value.get(name, False):
                value = next(rest, None)
                if value is not None:
                    done.append(value)
        elif in_portraits and (word not in commands or os.path.isfile(word)):
            done += [PORTRAIT, word]
        else:
            # a sub-command: what follows is its own
            done.append(word)
            break
    return [*done, *rest]
