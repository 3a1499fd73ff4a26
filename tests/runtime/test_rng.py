"""Generators keyed by their use: only the key decides the draws."""

import torch

from abn.runtime.rng import generator


def draws(*key: int | str) -> list[int]:
    return torch.randint(2**40, (4,), generator=generator(*key)).tolist()


def test_the_same_key_draws_the_same_numbers():
    assert draws(42, "augment", 3) == draws(42, "augment", 3)


def test_other_keys_draw_other_numbers():
    keys = [(42, "augment", 3), (42, "augment", 4), (43, "augment", 3), (42, "order", 3)]
    alike = [("1", 2), (1, 2), (12,), ("12",), (1, "2"), ("1, 2",), (), ("",), (2, 1), (2**64,)]
    numbers = {tuple(draws(*key)) for key in keys + alike}
    assert len(numbers) == len(keys + alike)


def test_the_numbers_do_not_change_between_versions():
    assert generator(42, "augment", 0).initial_seed() == 6308567491233332519


def test_torchs_global_generator_is_neither_used_nor_advanced():
    torch.manual_seed(0)
    first, state = draws(1), torch.get_rng_state()
    torch.manual_seed(1)
    assert draws(1) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
