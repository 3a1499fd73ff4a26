"""A window on the screen for a picture."""

from pathlib import Path

from abn.runtime.errors import DeviceError


def show(picture: Path) -> None:
    """Open `picture` and wait until the window is closed; DeviceError where there is no screen."""
    from matplotlib import pyplot  # picks a backend for the screen; no other code needs one

    if pyplot.get_backend().lower() == "agg":
        raise DeviceError("no screen to show a window on", "--show", f"open {picture}")
    pyplot.figure(num=picture.name)
    pyplot.imshow(pyplot.imread(picture))
    pyplot.axis("off")
    pyplot.show()
