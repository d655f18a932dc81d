"""The GCS emulator with what it lacks: uploads that ask for a generation (`ifGenerationMatch`) are refused with 412.

It answers one request at a time, so looking and writing are one step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import __main__, server
from gcp_storage_emulator.handlers import objects


def insert_if(request: Any, response: Any, storage: Any, *arguments: Any) -> None:
    """`objects.insert`, if the object's generation is the one asked for."""
    wanted = request.query.get("ifGenerationMatch")
    if wanted:
        meta = request.data.get("meta") or {}
        name = request.query.get("name", [meta.get("name")])[0]
        found = storage.objects.get(request.params["bucket_name"], {}).get(name, {})
        if found.get("generation", "0") != wanted[0]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
    objects.insert(request, response, storage, *arguments)


def replaced(handler: Callable[..., None]) -> Callable[..., None]:
    return insert_if if handler is objects.insert else handler


if __name__ == "__main__":
    server.HANDLERS = [
        (path, {method: replaced(handler) for method, handler in handlers.items()})
        for path, handlers in server.HANDLERS
    ]
    __main__.main(sys.argv[1:])
