"""The page as files that need no server: the model's networks go with it, and the browser computes."""

import base64
import os
import pathlib
import tempfile

from tf_ldiaf import paths
from tf_ldiaf.errors import FileError
from tf_ldiaf.execution import stopping
from tf_ldiaf.explorer import PAGE
from tf_ldiaf.explorer.answers import Explorer, as_json
from tf_ldiaf.probability import gaussians

_MOST_BYTES = 10_000_000
# index.html names what answers the page: a server, or the networks and the arithmetic for them.
_SERVER, _NETWORKS = '<script src="server.js" defer></script>', '<script src="{}.js" defer></script>'


def write(explorer: Explorer, folder: str | os.PathLike) -> None:
    """Writes the page with the model inside, at most 10 MB, to be opened as a file or put on any web host.

    Weights are kept as float16. What needs the encoder is left out.

    Args:
        explorer: whose model.
        folder: a new folder, or one that this function wrote.

    Raises:
        FileError: the folder holds other things or cannot be written; the decoder is not the package's dense one; or
            the model is too large.
    """
    out = paths.as_path(folder, "static")
    _check_free(out)
    files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.name != "server.js"}
    networks = "\n    ".join(_NETWORKS.format(name) for name in ("model", "network"))
    files["index.html"] = files["index.html"].replace(_SERVER.encode(), networks.encode())
    files["model.js"] = f"const MODEL = {as_json(_model(explorer))};\n".encode()
    size = sum(map(len, files.values()))
    if size > _MOST_BYTES:
        raise FileError(f"`static` must be a page of at most {_MOST_BYTES:,} bytes. Received: a model with {size:,}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tf_ldiaf-", dir=out.parent) as place:
            scratch = pathlib.Path(place) / "new"
            scratch.mkdir()
            for name, content in files.items():
                (scratch / name).write_bytes(content)
            with stopping.deferred():  # there is one of them at any moment
                if out.exists():
                    os.replace(out, pathlib.Path(place) / "old")
                os.replace(scratch, out)
    except OSError as error:
        raise FileError(f"`static` must be a folder that can be written. Received: {out} ({error.strerror}).") from None


def _check_free(out):
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = {file.name for file in PAGE.iterdir()} | {"model.js"}
    index = out / "index.html"
    names = {file.name for file in out.iterdir()} if out.is_dir() else set()
    if not ({"index.html"} <= names <= ours and f"made with {paths.MARK}" in index.read_text(errors="replace")):
        raise FileError(f"`static` must be a new folder, or a page that tf_ldiaf wrote. Received: {out}.")


def _model(explorer):
    """What the page is told of the model, and the networks that draw."""
    loaded = explorer.model
    found = {
        "with another decoder": not loaded.decoder,
        f"of {explorer.num_values} values": explorer.num_values != 2,
        "with a flow in its prior": bool(getattr(loaded, "prior_flow_steps", 0)),  # a SavedModel of before has none
    }
    if any(found.values()):
        raise FileError(
            "`static` needs a model of 0 and 1 with a dense decoder of this package and no flow in its prior. "
            f"Received: {explorer.path}, {', '.join(name for name in found if found[name])}."
        )
    root = None
    if loaded.root:
        loc, raw_scale = loaded.root[0]
        root = {"loc": loc.numpy(), "scale": gaussians.positive(raw_scale).numpy()}
    return explorer.describe() | {
        "decoder": _layers(loaded.decoder),
        "top_down": _layers(loaded.top_down),
        "root": root,
        "scale_offset": gaussians.SCALE_OFFSET,
        "min_scale": gaussians.MIN_SCALE,
    }


def _layers(layers):
    """Kernel and bias of each layer, as text of their float16 bytes, with the kernel's shape."""
    return [
        {"shape": kernel.shape.as_list(), "kernel": _as_text(kernel), "bias": _as_text(bias)} for kernel, bias in layers
    ]


def _as_text(weights):
    return base64.b64encode(weights.numpy().astype("<f2").tobytes()).decode()
