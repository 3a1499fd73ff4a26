"""Random generators keyed by their use, so that no generator state has to be saved."""

import hashlib

import torch


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends only on `key`, e.g. `generator(seed, "augment", epoch)`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1  # torch seeds are signed
    return torch.Generator(device=device).manual_seed(seed)
