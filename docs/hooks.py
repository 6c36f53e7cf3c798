"""What mkdocs asks for while it builds the site: the tables of settings."""

import ast
import pathlib
import re

SOURCE = pathlib.Path(__file__).parents[1] / "tf_ldiaf" / "config.py"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces each line `SETTINGS(group)` by the table of a group of settings."""
    return re.sub(r"^SETTINGS\((\w+)\)$", lambda found: _table(found[1]), markdown, flags=re.MULTILINE)


def _table(group):
    # The source is read and not imported: that would take TensorFlow's seconds, and its messages would be warnings.
    [body] = [node.body for node in ast.parse(SOURCE.read_text()).body if getattr(node, "name", "") == group]
    rows = ["| flag | default | what it is |", "|---|---|---|"]
    for field in body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            default, text = (ast.literal_eval(argument) for argument in field.value.args)
            rows.append(f"| `--{ast.unparse(field.target)}`{{.flag}} | {_as_flag(default)} | {text} |")
    return "\n".join(rows)


def _as_flag(default):
    if default is None:
        return "see there"
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return f"`{str(default).lower() if isinstance(default, bool) else default}`" if str(default) else "none"
