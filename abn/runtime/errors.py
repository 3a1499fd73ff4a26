"""User-facing errors: one line, no traceback, and an exit code of its own for each kind."""


def _on_one_line(part: object) -> str:
    """`part` on one line, with characters that a terminal cannot show as escapes."""
    text = " ".join(str(part).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """An error that the user can fix, shown as `error[KIND] what; where; remedy`.

    `what` is wrong, in a few words; `where` is a path, key or address; `remedy` says what to do.
    """

    kind = "USER"
    exit_code = 1

    def __init__(self, what: str, where: object, remedy: str) -> None:
        self.what, self._said = what, (what, str(where), remedy)
        super().__init__("; ".join(map(_on_one_line, self._said)))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """For another process: the three parts, of which `args` has only the line."""
        return type(self), self._said

    def line(self) -> str:
        """The whole line, as it is printed."""
        return f"error[{self.kind}] {self}"


class ParamsError(UserError):
    """A value in params.yaml, the environment or the command line is wrong."""

    kind, exit_code = "PARAMS", 2


class DataError(UserError):
    """A data set, archive, image or checkpoint is missing or damaged."""

    kind, exit_code = "DATA", 3


class ChangedError(UserError):
    """The inputs changed while the stage ran."""

    kind, exit_code = "CHANGED", 4


class DiskError(UserError):
    """A file cannot be written or read: disk full, no permission, failing disk."""

    kind, exit_code = "DISK", 5


class NotFiniteError(UserError):
    """The loss is NaN or infinite."""

    kind, exit_code = "NOTFINITE", 6


class DeviceError(UserError):
    """The device is missing or its memory is full."""

    kind, exit_code = "DEVICE", 7


class LostError(DeviceError):
    """Another process of the same training died or does not answer."""

    kind = "LOST"


class TrackingError(UserError):
    """MLflow's store fails where tracking is the whole task."""

    kind, exit_code = "TRACKING", 8


class BusyError(UserError):
    """Another process does the same work."""

    kind, exit_code = "BUSY", 75
