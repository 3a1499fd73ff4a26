"""What a user can put right, said in one line: what, where and the remedy.

Each kind of fault has an exit code of its own, for scripts that start a stage.
"""


def _on_one_line(part: object) -> str:
    """`part` with all that a terminal would not show as a character spelled out."""
    text = " ".join(str(part).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """A fault that the user can mend; shown as `error[KIND] what; where; remedy`, no traceback.

    `what` is wrong in a few words, `where` is a path, key or address, `remedy` what to do.
    """

    kind = "USER"
    exit_code = 1

    def __init__(self, what: str, where: object, remedy: str) -> None:
        self.what = what
        super().__init__("; ".join(map(_on_one_line, (what, where, remedy))))

    def line(self) -> str:
        """All of it, as a person reads it."""
        return f"error[{self.kind}] {self}"


class ParamsError(UserError):
    """params.yaml or the environment asks for what cannot be."""

    kind, exit_code = "PARAMS", 2


class DataError(UserError):
    """A data set, an archive, an image or a checkpoint is not what it should be."""

    kind, exit_code = "DATA", 3


class ChangedError(UserError):
    """The inputs are no longer those that the computation began with."""

    kind, exit_code = "CHANGED", 4


class DiskError(UserError):
    """A file cannot be written or read: no room, no permission, a failing disk."""

    kind, exit_code = "DISK", 5


class NotFiniteError(UserError):
    """A loss is no number any more."""

    kind, exit_code = "NOTFINITE", 6


class DeviceError(UserError):
    """The device is missing, or its memory does not suffice."""

    kind, exit_code = "DEVICE", 7


class LostError(DeviceError):
    """Another process of the same training is gone, or does not answer."""

    kind = "LOST"


class TrackingError(UserError):
    """MLflow's store fails where it is all that was asked for."""

    kind, exit_code = "TRACKING", 8


class BusyError(UserError):
    """Another process is at the same work."""

    kind, exit_code = "BUSY", 75
