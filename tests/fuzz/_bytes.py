"""Bytes, damaged in the ways in which parsers are known to fail."""

import random
from collections.abc import Callable

ODD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def _flip(data: bytearray, draws: random.Random) -> None:
    place = draws.randrange(len(data))
    data[place] ^= 1 << draws.randrange(8)


def _set(data: bytearray, draws: random.Random) -> None:
    data[draws.randrange(len(data))] = draws.choice([0, 0xFF, draws.randrange(256)])


def _number(data: bytearray, draws: random.Random) -> None:
    """An extreme number, in either byte order, over what is there."""
    size = draws.choice([2, 4, 8])
    value = draws.choice(ODD) & (256**size - 1)
    place = draws.randrange(max(len(data) - size, 1))
    data[place : place + size] = value.to_bytes(size, draws.choice(["big", "little"]))


def _cut(data: bytearray, draws: random.Random) -> None:
    del data[draws.randrange(len(data)) :]


def _remove(data: bytearray, draws: random.Random) -> None:
    place = draws.randrange(len(data))
    del data[place : place + draws.randrange(1, 64)]


def _insert(data: bytearray, draws: random.Random) -> None:
    place = draws.randrange(len(data))
    data[place:place] = draws.randbytes(draws.randrange(1, 64))


def _repeat(data: bytearray, draws: random.Random) -> None:
    place = draws.randrange(len(data))
    block = data[place : place + draws.randrange(1, 600)]
    data[place:place] = block * draws.randrange(1, 4)


def _swap(data: bytearray, draws: random.Random) -> None:
    size = draws.randrange(1, 64)
    one, two = (draws.randrange(len(data)) for _ in range(2))
    data[one : one + size] = data[two : two + size]


# Most faults are small: a file that is all noise is refused at its first byte.
_MANY: list[Callable[[bytearray, random.Random], None]] = [_flip, _set, _number] * 3
_MANY += [_remove, _insert, _repeat, _swap, _cut]


def damaged(data: bytes, draws: random.Random, most: int = 8) -> bytes:
    """`data` after one to `most` faults."""
    result = bytearray(data)
    for _ in range(draws.randint(1, most)):
        if result:
            draws.choice(_MANY)(result, draws)
    return bytes(result)
