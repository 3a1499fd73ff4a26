"""One step of training: what plain PyTorch does, however it is run."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abn.config import params as parameters
from abn.config.params import Attention, Params, Train
from abn.data.loader import Batch
from abn.models.abn import AttentionBranchNetwork, losses
from abn.runtime.rng import generator
from abn.training import augment, map_losses, optim
from abn.training.step import LONG, RATE, CudaGraphStep, Step, build, class_weights, is_long
from tests import toys
from tests.toys import CPU

PRESETS = Path(__file__).parents[2] / "presets"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, lr=0.1, momentum=0.9, nesterov=True, label_smoothing=0.1)


def batch(number: int = 0, size: int = 32, device: torch.device = CPU) -> Batch:
    """Eight images of noise, two of them mixed."""
    draws = generator("batch", number)
    images = torch.rand(8, 3, size, size, generator=draws)
    targets = F.one_hot(torch.randint(4, (8,), generator=draws), 4).float()
    targets[:2] = torch.tensor([0.75, 0.25, 0, 0])
    return Batch(images.to(device, memory_format=torch.channels_last), targets.to(device))


def by_hand(model: nn.Module, optimizer: torch.optim.SGD, batch: Batch) -> list[float]:
    """Loss and share of hits of one step without the engine."""
    output = model(batch.images)
    smooth = functools.partial(F.cross_entropy, label_smoothing=0.1)
    loss = smooth(output.logits, batch.targets) + smooth(output.attention_logits, batch.targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    hits = [a.argmax() == b.argmax() for a, b in zip(output.logits, batch.targets, strict=True)]
    return [loss.item(), sum(map(int, hits)) / len(hits)]


def with_masks(batch: Batch) -> Batch:
    """`batch`, the object on the left in the first six images; the others have no mask."""
    masks = torch.zeros_like(batch.images[:, :1])
    masks[:, :, :, : masks.shape[3] // 2] = 1
    masks[6:] = torch.nan
    return batch._replace(masks=masks)


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(tensor.equal(state[name]) for name, tensor in one.state_dict().items())


def test_a_step_is_what_plain_pytorch_does(config: Train) -> None:
    model, twin = toys.network(), toys.network()
    step = Step(model, optim.sgd(model, config), None, config)
    optimizer = optim.sgd(twin, config)
    for number in range(3):
        assert step(batch(number)).tolist() == pytest.approx(
            by_hand(twin, optimizer, batch(number))
        )
        assert same(model, twin)


def test_the_maps_loss_is_added_by_its_weight(config: Train, changed: Callable[..., Train]) -> None:
    model, twin, own = toys.network(), toys.network(), changed(config, attention_loss=0.5)
    step, shown = Step(model, optim.sgd(model, own), None, own), with_masks(batch())
    loss, _ = step(shown)
    output = twin(shown.images)
    left = torch.tensor([0.5, 0.5, -0.5, -0.5]).expand(4, 4).flatten()
    a = (output.attention - output.attention.mean((1, 2, 3), keepdim=True)).flatten(1)[:6]
    r = (a * left).mean(1) / ((a.square().mean(1) + map_losses.FLAT**2).sqrt() / 2)
    expected = sum(losses(output, shown.targets, 0.1)) + 0.5 * (1 - r).mean()
    assert loss.item() == pytest.approx(expected.item())
    optimizer = optim.sgd(twin, own)
    expected.backward()
    optimizer.step()
    torch.testing.assert_close(model.att_conv3.weight, twin.att_conv3.weight)
    assert not same(model, toys.network())


def test_a_moving_average_does_not_change_the_step(config: Train) -> None:
    model, twin = toys.network(), toys.network()
    with_one = Step(model, optim.sgd(model, config), optim.EMA(model, 0.9), config)
    without = Step(twin, optim.sgd(twin, config), None, config)
    for number in range(2):
        assert with_one(batch(number)).equal(without(batch(number)))
    assert same(model, twin)


def test_with_sam_the_gradient_is_that_of_the_batch_uphill(
    config: Train, changed: Callable[..., Train]
) -> None:
    """Spelt with a second network for the place uphill; the loss is that of where we are."""
    config, radius = changed(config, sam=0.3, sam_from=0.0), 0.3
    model, twin = toys.network(), toys.network()
    step, optimizer = Step(model, optim.sgd(model, config), None, config), optim.sgd(twin, config)
    step.begin(0)
    for number in range(2):
        above = copy.deepcopy(twin)
        expected = by_hand(twin, torch.optim.SGD(twin.parameters(), lr=0.0), batch(number))
        kernels = [p for p in twin.parameters() if p.ndim > 1]
        length = sum(p.grad.square().sum() for p in kernels if p.grad is not None).sqrt()
        with torch.no_grad():
            for place, here in zip(above.parameters(), twin.parameters(), strict=True):
                if here.ndim > 1 and here.grad is not None:
                    place += radius * here.grad / length
        by_hand(above, torch.optim.SGD(above.parameters(), lr=0.0), batch(number))
        for place, here in zip(above.parameters(), twin.parameters(), strict=True):
            here.grad = place.grad
        optimizer.step()
        assert step(batch(number)).tolist() == pytest.approx(expected)
        for name, tensor in twin.state_dict().items():  # statistics too: of the first pass alone
            torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)


def test_sam_begins_after_its_share_of_the_training_and_0_is_off(
    config: Train, changed: Callable[..., Train]
) -> None:
    def on(**values: float) -> list[bool]:
        own, model = changed(config, epochs=4, **values), toys.network()
        step, seen = Step(model, optim.sgd(model, own), None, own), []
        for epoch in range(4):
            step.begin(epoch)
            seen.append(step.sharp)
        return seen

    assert on(sam=0.05, sam_from=0.5) == [False, False, True, True]
    assert on(sam=0.05, sam_from=0.0) == [True] * 4
    assert on(sam=0.0, sam_from=0.0) == [False] * 4


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_a_batch_that_sam_sees_twice_counts_once_in_the_statistics(
    config: Train, changed: Callable[..., Train], attention: Attention
) -> None:
    """Those of both looks; the weights differ, so that SAM was on."""
    look = config.look.model_copy(update={"start": 0.0})
    networks = [toys.network(attention=attention) for _ in range(2)]
    for model, radius in zip(networks, (0.0, 0.5), strict=True):
        own = changed(config, sam=radius, sam_from=0.0, look=look)
        step = Step(model.train(), optim.sgd(model, own), None, own)
        step.begin(0)
        step(batch())
    plain, sharp = networks
    for name, tensor in plain.named_buffers():
        assert sharp.get_buffer(name).equal(tensor), name
    assert not sharp.conv1.weight.equal(plain.conv1.weight)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_muon_moves_a_network_and_sgd_its_rest(
    config: Train, changed: Callable[..., Train], attention: Attention
) -> None:
    own = changed(config, optimizer="muon", muon_lr=0.01)
    model, twin = (toys.network(attention=attention) for _ in range(2))
    for network in (model, twin):
        used = own if network is model else config
        step = Step(network, optim.optimizer(network, used), None, used)
        step.begin(3)
        step(batch())
    moved = {name for name, p in model.named_parameters() if not p.equal(twin.get_parameter(name))}
    assert moved == {"layer1.weight", "layer4.weight"}  # the toy's blocks


def test_on_the_cpu_bf16_is_not_used(config: Train, changed: Callable[..., Train]) -> None:
    model, twin = toys.network(), toys.network()
    for network, precision in ((model, "bf16"), (twin, "fp32")):
        own = changed(config, precision=precision)
        Step(network, optim.sgd(network, own), None, own)(batch())
    assert same(model, twin)


@pytest.mark.parametrize("compile", ["auto", "on", "off"])
def test_on_the_cpu_it_is_a_plain_step(
    config: Train, changed: Callable[..., Train], compile: str
) -> None:
    model, own = toys.network(), changed(config, compile=compile)
    step = build(model, optim.sgd(model, own), None, own, images=10**9)
    assert type(step) is Step and not step.compiled
    assert step.network is model and step.device == CPU


def test_compiled_a_step_is_the_same(config: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a code generator behind it, which would take a minute."""
    light = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", light)
    model, twin = toys.network(), toys.network()
    compiled = Step(model, optim.sgd(model, config), None, config, compiled=True)
    plain = Step(twin, optim.sgd(twin, config), None, config)
    for number in range(2):
        torch.testing.assert_close(compiled(batch(number)), plain(batch(number)))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_toy_is_not_long(config: Train) -> None:
    assert not is_long(toys.network(), config, images=40)


def test_the_original_training_is_too_short_to_compile_and_twice_of_it_is_not(
    changed: Callable[..., Train],
) -> None:
    """369 seconds are expected: 3 x 28.9 GFLOP an image, 9469 images, 90 epochs."""
    params = parameters.load(PRESETS / "imagenette.yaml")
    with torch.device("meta"):
        model = AttentionBranchNetwork(params.arch, 10)
    assert not is_long(model, params.train, images=9469)
    assert is_long(model, changed(params.train, epochs=180), images=9469)


def test_every_epoch_counts_with_its_own_size_and_every_size_costs(
    config: Train, changed: Callable[..., Train]
) -> None:
    """Twice the side is four times the work: of two epochs, 0.2 and 0.8; twice to compile."""
    model = nn.Conv2d(3, 10, 1)
    growing = changed(config, epochs=2, sizes=(32, 64), grow_at=(0.5,))
    work = 3 * 2 * 30 * (32**2 + 64**2)  # FLOP an image: forward and twice that backward
    enough = round(2 * LONG * RATE / work)
    assert is_long(model, growing, round(1.01 * enough))
    assert not is_long(model, growing, round(0.99 * enough))


def trained(kind: type[Step], config: Train, with_ema: bool) -> tuple[nn.Module, list[Tensor]]:
    """A network after steps on images of one size and then of another, as the rate changes."""
    gpu = torch.device("cuda")
    model = toys.network().to(gpu)
    mean = optim.EMA(model, 0.9) if with_ema else None
    step, seen = kind(model, optim.sgd(model, config), mean, config), []
    for number in range(16):
        optim.set_rate(step.optimizer, 0.1 / (1 + number))
        seen.append(step(batch(number, 32 if number < 9 else 48, gpu)))
    return mean.model if mean else model, seen


@needs_gpu
@pytest.mark.parametrize("with_ema", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_are_the_plain_ones_bit_for_bit(
    config: Train, changed: Callable[..., Train], precision: str, with_ema: bool
) -> None:
    own = changed(config, precision=precision)
    (plain, seen), (recorded, again) = (trained(k, own, with_ema) for k in (Step, CudaGraphStep))
    assert torch.stack(again).equal(torch.stack(seen))
    assert same(recorded, plain)


@needs_gpu
@pytest.mark.parametrize("attention", ["residual", "look"])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_recorded_steps_are_the_plain_ones_before_and_after_sam_begins(
    config: Train, changed: Callable[..., Train], optimizer: str, attention: Attention
) -> None:
    gpu, results = torch.device("cuda"), []
    own = changed(config, epochs=2, sam=0.05, sam_from=0.5, optimizer=optimizer, precision="bf16")
    for kind in (Step, CudaGraphStep):
        model = toys.network(attention=attention).to(gpu)
        step, seen = kind(model, optim.optimizer(model, own), None, own), []
        for epoch in range(2):
            step.begin(epoch)
            seen += [step(batch(epoch * 8 + number, device=gpu)) for number in range(8)]
        results.append((torch.stack(seen), model))
    (seen, plain), (again, recorded) = results
    assert again.equal(seen) and same(recorded, plain)


@needs_gpu
def test_recorded_steps_with_masks_without_and_with_them_again_are_the_plain_ones(
    config: Train, changed: Callable[..., Train]
) -> None:
    gpu, own, results = torch.device("cuda"), changed(config, attention_loss=0.5), []
    for kind in (Step, CudaGraphStep):
        model = toys.network().to(gpu)
        step = kind(model, optim.sgd(model, own), None, own)
        shown = [batch(number, device=gpu) for number in range(18)]
        shown = [each if i in range(6, 12) else with_masks(each) for i, each in enumerate(shown)]
        results.append((torch.stack([step(each) for each in shown]), model))
    (seen, plain), (again, recorded) = results
    assert again.equal(seen) and same(recorded, plain)


@needs_gpu
@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_never_waits_for_the_gpu(
    config: Train, changed: Callable[..., Train], resident: bool
) -> None:
    everything = {"jitter": 0.3, "trivial": 0.5, "erase": 0.5}
    everything |= {"mixup": 0.2, "cutmix": 1.0, "mix_share": 0.5}
    everything |= {"attention_loss": 0.5, "attention_masks": 0.5}
    own = changed(config, batch_size=8, precision="bf16", **everything)
    gpu, split = torch.device("cuda"), toys.split(80)
    model = toys.network().to(gpu)
    step = Step(model, optim.sgd(model, own), optim.EMA(model, 0.9), own)
    shown = augment.batches(split.to(gpu) if resident else split, own, 32, 0, 0, gpu)
    step(next(shown))
    with warnings.catch_warnings(action="ignore"):  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for following in shown:
            step(following)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # the compiler's own
@pytest.mark.parametrize(
    "compile, kind, compiled",
    [("off", Step, False), ("auto", CudaGraphStep, False), ("on", CudaGraphStep, True)],
)
def test_on_a_gpu_steps_are_recorded_unless_switched_off(
    config: Train, changed: Callable[..., Train], compile: str, kind: type[Step], compiled: bool
) -> None:
    model, own = toys.network().to("cuda"), changed(config, compile=compile)
    step = build(model, optim.sgd(model, own), None, own, images=40)
    assert type(step) is kind and step.compiled == compiled


def test_the_weights_of_classes_by_hand(params, changed):
    """Four images of three classes, one of them empty: 4 / (2 * 3), 0, and 4 / (2 * 1)."""
    split = toys.split(4, classes=3)
    split = dataclasses.replace(split, labels=torch.tensor([0, 0, 0, 2]))
    balanced = changed(params.train, balance="weights")
    found = class_weights(split, balanced, toys.CPU)
    assert found.tolist() == pytest.approx([2 / 3, 0, 2])
    assert class_weights(split, params.train, toys.CPU) is None


def test_a_step_weighs_the_classes(params, changed):
    config = changed(params.train, lr=0.1)
    model, shown = toys.network(4), batch()
    weights = torch.tensor([0.0, 1.0, 2.0, 1.0])
    expected = torch.stack(
        losses(model.train()(shown.images), shown.targets, weights=weights)
    ).sum()
    model = toys.network(4)
    found = Step(model, optim.sgd(model, config), None, config, weights=weights)(shown)
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-5)
