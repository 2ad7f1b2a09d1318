"""How the arguments of a user's function become payloads, and back.

Positional arguments become payloads in order; keyword-only ones follow, with their name in the metadata.
Types are read from the annotations once, when they are first needed (a definition may refer to names that
come later in its module).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perdure.model.payloads import Payload, Payloads


class Signature:
    """The parameters and the result of one user function, as payloads.

    Args:
        function: the function whose annotations are read.
        name: how messages call it, for example "activity create_vpc".
        skip_first: the first parameter is `self`.
    """

    def __init__(self, function: Callable[..., object], name: str, *, skip_first: bool = False) -> None:
        raise NotImplementedError

    def encode(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Payloads:
        """Arguments as payloads. Raises TypeError where they don't fit the parameters, EncodeError and
        PayloadTooLarge naming the parameter."""
        raise NotImplementedError

    def decode(self, payloads: Payloads) -> tuple[list[object], dict[str, object]]:
        """Payloads as (args, kwargs), of the hinted types. Raises DecodeError naming parameter and field."""
        raise NotImplementedError

    def encode_result(self, value: object) -> Payload:
        """A result as a payload. Raises EncodeError or PayloadTooLarge."""
        raise NotImplementedError

    def decode_result(self, payload: Payload) -> object:
        """A payload as the hinted result. Raises DecodeError."""
        raise NotImplementedError
