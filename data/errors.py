"""The one error that users are meant to read."""


class UserError(Exception):
    """A problem that the user can mend: what is wrong, where, and what to do about it.

    The command line prints it as one line and exits with `exit_code`; `--debug` adds the traceback.
    """

    exit_code = 2

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem
        self.remedy = remedy
