"""Good input -> hostile input. The same Random gives the same input. Knows no reader."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

# what stands where something else is expected
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**39, 1.5, -0.0),
    *(1e308, 5e-324, math.inf, -math.inf, math.nan, "", " ", "0", "1e999", "nan", "true", "\0"),
    *("\ud800", "a\udcff", "\x1b[2J", "\u202e", "é" * 300, "a" * 5000, "../../etc/passwd"),
    *("~nobody/x", "/dev/zero", "<script>alert(1)</script>", "{0.__class__}", "%s%n", "(" * 3000),
    *([], {}, [[]], [None], ["0"], [0, -1], {"": ""}, {"a": {"a": {}}}, [1] * 70),
)
# spliced into text where JSON cannot be made of a value of Python's
RAW = (
    *(
        "[" * 100_000,
        '{"a":' * 5000,
        "9" * 5000,
        "-" * 50,
        "1e400",
        "NaN",
        '"\\ud800"',
        '"\\u0000"',
    ),
    *('{"a":1,"a":2}', "/*", "'", "\ufeff", "\u2028", "0x10", "01", "+1", ".5", "1."),
)
ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
ODD_LONG = (*ODD_NUMBERS, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
MAX_BYTES = 1 << 20


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """One to four changes of bytes, numbers or pieces."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        random.choice(BYTE_CHANGES)(changed, random)
    return bytes(changed[:MAX_BYTES])


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x7B))


def _number(data: bytearray, random: Random) -> None:
    form, numbers = random.choice((("<I", ODD_NUMBERS), ("<Q", ODD_LONG), (">I", ODD_NUMBERS)))
    size = struct.calcsize(form)
    if len(data) >= size:
        # headers are where numbers are
        at = random.randrange(min(len(data) - size + 1, random.choice((64, 400, len(data)))) or 1)
        data[at : at + size] = struct.pack(form, random.choice(numbers))


def _delete(data: bytearray, random: Random) -> None:
    if data:
        at = random.randrange(len(data))
        del data[at : at + random.choice((1, 2, 8, 64, len(data)))]


def _repeat(data: bytearray, random: Random) -> None:
    if data:
        at = random.randrange(len(data))
        piece = data[at : at + random.randint(1, 64)]
        data[at:at] = piece * random.choice((1, 2, 20))


def _insert(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice(RAW).encode(errors="surrogatepass")


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _move(data: bytearray, random: Random) -> None:
    if len(data) > 8:
        one, other = sorted(random.sample(range(len(data)), 2))
        data[one:other] = data[one:other][::-1]


BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_flip, _flip, _set, _set, _number, _number, _number, _delete, _repeat, _insert, _cut, _move),
)


def mutate_value(value: Any, random: Random) -> Any:
    """A JSON value with one to three of its parts exchanged, taken away or put where they do not
    belong.
    """
    for _ in range(random.randint(1, 3)):
        value = _exchange(value, random)
    return value


def _exchange(value: Any, random: Random) -> Any:
    """Goes down a random path, and puts something odd at its end."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return random.choice(ODD_VALUES)
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = random.choice(places)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    act = random.random()
    if act < 0.1:
        del copy[place]
    elif act < 0.2 and isinstance(copy, dict):
        copy[str(random.choice(ODD_VALUES))] = copy.pop(place)
    elif act < 0.3 and isinstance(copy, list):
        copy.insert(place, copy[random.choice(places)])
    else:
        copy[place] = _exchange(value[place], random)
    return copy


def mutate_json(text: bytes, random: Random) -> bytes:
    """Text of JSON with other values in it, or with bytes that are none."""
    if random.random() < 0.25:
        return mutate_bytes(text, random)
    told = json.dumps(mutate_value(json.loads(text), random))
    if random.random() < 0.2:
        for number in ("0", "1", "2"):
            if number in told:
                told = told.replace(number, random.choice(RAW), 1)
                break
    return told.encode()


def mutate_lines(text: bytes, random: Random) -> bytes:
    """Lines of JSON, one of them with other values in it."""
    lines = text.split(b"\n")
    place = random.randrange(len(lines))
    if lines[place].startswith(b"{"):
        lines[place] = mutate_json(lines[place], random)
    else:
        lines[place] = mutate_bytes(lines[place], random)
    return b"\n".join(lines)


def mutate_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with other values in its header, or other bytes."""
    if random.random() < 0.25:
        return mutate_bytes(data, random)
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutate_text(text: str, random: Random) -> str:
    """A short text with odd characters, numbers and names in it."""
    for _ in range(random.randint(1, 3)):
        at, end = sorted(random.choices(range(len(text) + 1), k=2))
        piece = random.choice((*ODD_VALUES, *RAW, *"0123456789:;,=<>()[]{}~/.-+*\\\"'\n\t\r\0"))
        text = text[:at] + (piece if isinstance(piece, str) else json.dumps(piece)) + text[end:]
    return text[:20_000]
