"""Generators named by their use: the name decides the draws, and nothing else does."""

import torch

from abn.runtime.rng import generator


def draws(*key: int | str) -> list[int]:
    return torch.randint(2**40, (4,), generator=generator(*key)).tolist()


def test_the_same_key_draws_the_same_numbers():
    assert draws(42, "augment", 3) == draws(42, "augment", 3)


def test_any_other_key_draws_others():
    keys = [(42, "augment", 3), (42, "augment", 4), (43, "augment", 3), (42, "order", 3)]
    alike = [("1", 2), (1, 2), (12,), ("12",), (1, "2"), ("1, 2",), (), ("",), (2, 1)]
    found = {tuple(draws(*key)) for key in keys + alike}
    assert len(found) == len(keys + alike)


def test_the_numbers_stay_those_of_earlier_versions():
    assert generator(42, "augment", 0).initial_seed() == 6308567491233332519


def test_the_seed_of_the_process_is_neither_used_nor_moved():
    torch.manual_seed(0)
    first, state = draws(1), torch.get_rng_state()
    torch.manual_seed(1)
    assert draws(1) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_key_of_any_size_works():
    assert len({tuple(draws(seed)) for seed in (-1, 0, 2**32, 2**64, 10**30)}) == 5
