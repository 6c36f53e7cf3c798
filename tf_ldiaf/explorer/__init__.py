"""A page on which one looks into a SavedModel: its answers, a local server for them, and a page without a server."""
