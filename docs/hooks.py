"""What mkdocs asks for while it builds the site: the tables of settings."""

import ast
import pathlib
import re

SOURCES = [pathlib.Path(__file__).parents[1] / "tf_ldiaf" / name for name in ("config.py", "data_settings.py")]


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces each line `SETTINGS(group)` by the table of a group of settings."""
    return re.sub(r"^SETTINGS\((\w+)\)$", lambda found: _table(found[1]), markdown, flags=re.MULTILINE)


def _table(group):
    # The sources are read and not imported: that would take TensorFlow's seconds, and its messages would be warnings.
    nodes = [node for source in SOURCES for node in ast.parse(source.read_text()).body]
    [body] = [node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == group]
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
