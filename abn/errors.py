"""What a user can put right, said in one line: what, where and the remedy."""


class UserError(Exception):
    """A fault in parameters, data or a file that the user can mend; shown without a traceback."""
