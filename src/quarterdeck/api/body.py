"""What all bodies of HTTP are made of."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request as HttpRequest
from litestar.datastructures import State
from msgspec import Meta

from quarterdeck.errors import Invalid

Seconds = Annotated[float, Meta(ge=0, le=366 * 86_400)]


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is asked: an unknown field is an error, never ignored."""


class StrictRequest(HttpRequest[Any, Any, State]):
    """A request whose body is read as its route describes it.

    Litestar would take `"1"` for a number and for true, as it must in a query.
    """

    async def json(self) -> Any:
        """The body as the route's own type. Raises Invalid."""
        field = self.scope["route_handler"].parsed_data_field
        if field is None:
            return await super().json()
        try:
            return msgspec.json.decode(await self.body(), type=field.annotation)
        except msgspec.ValidationError as error:
            message, at, where = str(error).rpartition(" - at `$")
            told = f"{where.strip('.`')}: {message}" if at else where
            raise Invalid("invalid_request", f"{told}.") from error
        except msgspec.DecodeError as error:
            raise Invalid("unreadable", f"The body is no JSON: {error}.") from error
