"""Ours against what people would use instead: same images, network, batch and size, side by side.

    python -m benchmarks.rivals --photos imagenette2-160.tgz --size 96

ours   this project's training: packed images, augmented on the device
bare   our step alone, on a batch that is already there: what no loader can beat
plain  torchvision's way: ImageFolder, a DataLoader with workers, PIL, its transforms, NCHW
hf     the same files and transforms through Hugging Face's Trainer

Every contestant lives in a process of its own; they take turns, and ratios are taken within a
round. Needs the extras in requirements-bench.lock (`make bench`).
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import measure, photos
from benchmarks.measure import Build, Play, Turn


def packed(options: argparse.Namespace) -> Play:
    """This project's own epoch."""
    from abn.training import augment

    step, split, config = _ours(options)
    epochs = itertools.count()

    def play(steps: int) -> Turn:
        shown = itertools.chain.from_iterable(
            augment.batches(split, config, options.size, 0, epoch, step.device) for epoch in epochs
        )
        return measure.timed(steps, shown, options.batch, step)

    return play


def bare(options: argparse.Namespace) -> Play:
    """Our step on one batch, again and again."""
    from abn.training import augment

    step, split, config = _ours(options)
    batch = next(augment.batches(split, config, options.size, 0, 0, step.device))
    return lambda steps: measure.timed(steps, itertools.repeat(batch), options.batch, step)


def plain(options: argparse.Namespace) -> Play:
    """The loop of a classification tutorial, with everything it would use."""
    import torch
    from torch.utils.data import DataLoader

    device, model = _device(), _network(options)
    loader = DataLoader(
        _files(options),
        options.batch,
        shuffle=True,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    bf16 = device.type == "cuda"

    def learn(batch: Any) -> None:
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = _loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def play(steps: int) -> Turn:
        return measure.timed(steps, _forever(loader), options.batch, learn)

    return play


def hf(options: argparse.Namespace) -> Play:
    """`plain`'s files and transforms through transformers.Trainer."""
    import torch
    from torch import Tensor, nn
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network(options)

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            output = self.network(pixel_values)
            return {"loss": _loss(output, labels), "logits": output.logits}

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 1:
                measure.wait_for_device()
                self.started, trainer.waited = time.perf_counter(), 0.0

    class Waiting(Trainer):
        waited = 0.0

        def get_batch_samples(self, *given: Any) -> Any:
            asked = time.perf_counter()
            try:
                return super().get_batch_samples(*given)
            finally:
                self.waited += time.perf_counter() - asked

    def collate(rows: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        images, labels = zip(*rows, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    model, files = Model(), _files(options)

    def play(steps: int) -> Turn:
        with tempfile.TemporaryDirectory() as folder:
            return train(steps, folder)

    def train(steps: int, folder: str) -> Turn:
        nonlocal trainer
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=options.batch,
            max_steps=steps + 1,
            learning_rate=0.01,
            optim="sgd",
            bf16=_device().type == "cuda",
            dataloader_num_workers=options.workers,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10**6,
        )
        clock = Clock()
        trainer = Waiting(model, arguments, collate, files, callbacks=[clock])
        trainer.train()
        measure.wait_for_device()
        seconds = time.perf_counter() - clock.started
        return Turn(steps * options.batch, seconds, trainer.waited)

    trainer: Any = None
    return play


CONTESTANTS: dict[str, Build] = {"ours": packed, "bare": bare, "plain": plain, "hf": hf}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="an Imagenette archive; else shapes")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="of plain and hf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="in a round")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = photos.folder(Path(folder), options.images, options.photos)
        photos.packed_splits(options.folder, photos.SIDE)
        measure.save(
            options.out, f"rivals-{options.arch}-{options.size}", vars(options), run(options)
        )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second, ratios, the share of the time spent waiting, and peak memory."""
    chosen = {name: CONTESTANTS[name] for name in options.only}
    with measure.contest(chosen, options) as contestants:
        rounds = []
        for turns in measure.alternate(contestants, options.rounds, options.steps):
            rounds.append(turns)
            said = (f"{name} {turn.images / turn.seconds:.1f}" for name, turn in turns.items())
            print(f"round {len(rounds)}  {'  '.join(said)}  images/s", flush=True)
        peaks = {contestant.name: contestant.stop() for contestant in contestants}
    results = {
        name: {
            "images_per_second": round(speed, 2),
            "ours_is_times_as_fast": round(measure.ratio(rounds, options.only[0], name), 3),
            "waiting_for_data": round(measure.waiting(rounds, name), 4),
            "peak_memory_gb": round(peaks[name], 2),
            "rounds": [round(turns[name].images / turns[name].seconds, 2) for turns in rounds],
        }
        for name, speed in measure.speeds(rounds).items()
    }
    for name, figures in results.items():
        print(f"{name:6}", figures, flush=True)
    return results


def _ours(options: argparse.Namespace) -> Any:
    """Our step, the packed split on its device, and the original's recipe in bf16."""
    from abn.data import packed
    from benchmarks import ours

    recipe = measure.recipe("imagenette").train
    config = recipe.model_copy(update={"batch_size": options.batch, "precision": "bf16"})
    split = ours.placed(packed.read(options.folder / f"{photos.SIDE}.safetensors"))
    return ours.step(options.arch, split, config), split, config


def _files(options: argparse.Namespace) -> Any:
    """The image files as torchvision's ImageFolder sees them, cropped and flipped by PIL."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(options.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return ImageFolder(str(options.folder), transform)


def _network(options: argparse.Namespace) -> Any:
    """The same network as ours; it normalises by itself."""
    import torch

    from abn.models.abn import AttentionBranchNetwork

    torch.manual_seed(0)
    classes = sum(path.is_dir() for path in options.folder.iterdir())
    return AttentionBranchNetwork(options.arch, classes).to(_device()).train()


def _loss(output: Any, labels: Any) -> Any:
    from abn.models.abn import losses

    perception, attention = losses(output, labels)
    return perception + attention


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


if __name__ == "__main__":
    main()
