"""A page on which one looks into a SavedModel: its answers, a local server for them, and a page without a server."""

import pathlib

PAGE = pathlib.Path(__file__).parent / "page"
MISSING = 'The explorer needs {}: pip install "tf_ldiaf[explore]".'
