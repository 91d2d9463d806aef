"""One flag of sd-cli, and what may become of it here.

A flag is implemented (our own option, in flags/), noted (accepted; it has nothing to change, and a
line on standard error says so) or refused (one line says why and what to do instead). Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

SdStatus = Literal["implemented", "noted", "refused"]


@dataclass(frozen=True)
class SdFlag:
    """One flag of sd-cli."""

    name: str
    status: SdStatus
    # implemented: how it differs from sd-cli, "" if it does not; noted: why it changes nothing;
    # refused: the reason and the next step
    text: str = ""
    aliases: tuple[str, ...] = ()
    # sd-cli's, as its help writes it
    default: str | None = None
    # whether a value follows
    value: bool = True
    # the only values that can be taken, if there are some; others are refused, and `otherwise`
    # says why
    accepts: tuple[str, ...] = ()
    otherwise: str = ""
    # words that are taken as the value if one of them follows: of flags that newer versions changed
    optional: tuple[str, ...] = ()
    # of a flag that 97d29908 lacks: since when sd-cli has it; of one that it lost: until when
    since: str = ""
    until: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


# one function for each status, so that a line of the table reads as a sentence


def same(
    name: str, *aliases: str, default: str | None = None, value: bool = True, text: str = ""
) -> SdFlag:
    return SdFlag(name, "implemented", text, aliases, default, value)


def note(
    name: str, text: str, *aliases: str, default: str | None = None, value: bool = True, **more: Any
) -> SdFlag:
    return SdFlag(name, "noted", text, aliases, default, value, **more)


def refuse(
    name: str, text: str, *aliases: str, default: str | None = None, value: bool = True, **more: Any
) -> SdFlag:
    return SdFlag(name, "refused", text, aliases, default, value, **more)
