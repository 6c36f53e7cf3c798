"""What mkdocs asks for while it builds the site: the tables of settings."""

import dataclasses
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tf_ldiaf import config
from tf_ldiaf.fields import to_text


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces each line `SETTINGS(group)` by the table of a group of settings."""
    return re.sub(r"^SETTINGS\((\w+)\)$", lambda found: _table(getattr(config, found[1])), markdown, flags=re.MULTILINE)


def _table(group):
    rows = ["| flag | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(group):
        default = "the method's" if field.default is None else f"`{to_text(field.default)}`" if field.default else ""
        text = field.metadata["help"].replace("|", "\\|")
        rows.append(f"| `--{field.name}` | {default or to_text(field.default)} | {text} |")
    return "\n".join(rows)
