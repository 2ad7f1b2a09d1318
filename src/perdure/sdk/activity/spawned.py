"""Whether this process is one of a pool that imports its worker's `__main__`, which must not run the program again."""

from __future__ import annotations

importing = False


def refuse_while_importing(what: str) -> None:
    """Raises RuntimeError where a program would begin in a process of its own pool."""
    if importing:
        raise RuntimeError(
            f"a process of the pool imports this program to find its activities, and that would {what} again: put what "
            f'the program runs under `if __name__ == "__main__":`'
        )
