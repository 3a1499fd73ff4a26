"""Bytes damaged in the ways that parsers are known to fail on, by seeded draws."""

import random

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
# Most damage is small: a file that is all noise is refused at its first byte.
KINDS = ["flip", "set", "number"] * 3 + ["remove", "insert", "repeat", "cut"]


def damaged(data: bytes, draws: random.Random, most: int = 8) -> bytes:
    """`data` after one to `most` damages."""
    result = bytearray(data)
    for _ in range(draws.randint(1, most)):
        if result:
            _damage(result, draws)
    return bytes(result)


def _damage(data: bytearray, draws: random.Random) -> None:
    place, size = draws.randrange(len(data)), draws.randrange(1, 64)
    match draws.choice(KINDS):
        case "flip":
            data[place] ^= 1 << draws.randrange(8)
        case "set":
            data[place] = draws.choice([0, 0xFF, draws.randrange(256)])
        case "number":  # an extreme one, in either byte order
            width = draws.choice([2, 4, 8])
            value = draws.choice(NUMBERS) & (256**width - 1)
            data[place : place + width] = value.to_bytes(width, draws.choice(["big", "little"]))
        case "remove":
            del data[place : place + size]
        case "insert":
            data[place:place] = draws.randbytes(size)
        case "repeat":
            data[place:place] = data[place : place + 10 * size] * draws.randrange(1, 4)
        case "cut":
            del data[place:]
