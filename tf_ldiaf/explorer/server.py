"""The page's server: an explorer's answers as JSON, on this machine only."""

import asyncio
import inspect
import json
import socket
import threading
import urllib.parse
import webbrowser
from collections.abc import Callable

from tf_ldiaf.errors import ConfigError, LDIAFError, RequestError
from tf_ldiaf.explorer import MISSING, PAGE
from tf_ldiaf.explorer.answers import Explorer, as_json
from tf_ldiaf.explorer.uploads import images_of

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ModuleNotFoundError as error:
    raise ConfigError(MISSING.format(error.name)) from None

_HOST = "127.0.0.1"
_MOST_BYTES = 16_000_000


def serve(explorer: Explorer, port: int = 0, browser: bool = True) -> None:
    """Serves the page until Ctrl-C, and prints its address.

    Args:
        explorer: whose answers.
        port: of this machine; 0: any that is free.
        browser: whether to open the page in the browser.

    Raises:
        ConfigError: the port is not free.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((_HOST, port))
        except OSError as error:
            raise ConfigError(f"`port` must be one that is free. Received: {port} ({error.strerror}).") from None
        listening.listen()
        address = f"http://{_HOST}:{listening.getsockname()[1]}/"
        print(f"Explorer of {explorer.name}: {address}\nCtrl-C ends it.", flush=True)
        if browser:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        config = uvicorn.Config(make_app(explorer), log_level="warning", timeout_graceful_shutdown=1)
        _run(uvicorn.Server(config), [listening])


def _run(server, sockets):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        server.run(sockets)
        return
    # A notebook has a loop of its own that runs.
    thread = threading.Thread(target=server.run, args=[sockets])
    thread.start()
    try:
        thread.join()
    finally:
        server.should_exit = True


def make_app(explorer: Explorer) -> Starlette:
    """The page, and below /api/ the questions.

    /api/model is `Explorer.describe`. A POST to /api/sample, decode, resample, encode or bounds has the arguments of
    the `Explorer`'s method as a JSON object; to /api/read it is a file with images. What cannot be answered is 400,
    what is too large 413, with {"error": a sentence}.
    """
    questions = [explorer.sample, explorer.decode, explorer.resample, explorer.encode, explorer.bounds]
    description = explorer.describe()

    async def model(request: Request) -> Response:
        return _answer(description)

    async def read(request: Request) -> Response:
        file, kind = await _body(request), (explorer.image_shape, explorer.num_values, explorer.value_range)
        return _answer({"images": await run_in_threadpool(images_of, file, *kind)})

    return Starlette(
        routes=[
            Route("/api/model", model),
            Route("/api/read", read, methods=["POST"]),
            *(Route(f"/api/{ask.__name__}", _endpoint(ask), methods=["POST"]) for ask in questions),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        # Another site that is open in the same browser cannot reach the server under a name of its own, nor by `_body`.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])],
        exception_handlers={LDIAFError: _refuse, HTTPException: _refuse},
    )


def _endpoint(ask: Callable):
    names = set(inspect.signature(ask).parameters)

    async def endpoint(request: Request) -> Response:
        arguments = _parsed(await _body(request), names)
        return _answer(await run_in_threadpool(ask, **arguments))

    return endpoint


def _answer(answer):
    return Response(as_json(answer), media_type="application/json")


async def _body(request):
    origin = request.headers.get("origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, f"A request must come from this page. Received: one from {origin}.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BYTES:
            raise HTTPException(413, f"A request must have at most {_MOST_BYTES:,} bytes. Received: more.")
        parts.append(part)
    return b"".join(parts)


def _parsed(body, names):
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(f"A request must be a JSON object. Received: {len(body)} bytes of something else.") from None
    if not isinstance(found, dict) or set(found) != names:
        given = ", ".join(sorted(found)) if isinstance(found, dict) else "no object"
        raise RequestError(f"A request must have {', '.join(sorted(names))}. Received: {given or 'nothing'}.")
    return found


async def _refuse(request, error):
    status, sentence = (error.status_code, error.detail) if isinstance(error, HTTPException) else (400, str(error))
    return JSONResponse({"error": sentence.replace("`", "")}, status)
