"""Options out of a YAML file; those on the command line come first."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """A callback: what the file says becomes the options' defaults."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_settings(path, context)}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        callback=_read,
        is_eager=True,
        help="Options from a YAML file, `epochs: 50` for `--epochs 50`; those given here win.",
    ),
]


def read_settings(path: Path, context: typer.Context) -> dict[str, Any]:
    """Option names to values, each checked by its option.

    Raises:
        ValueError: the file cannot be read, names no option or a wrong value, with line and column.
    """
    import yaml

    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config: {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{_at(path, error.problem_mark)}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{_at(path, node.start_mark)}: there must be lines such as `epochs: 50`")
    options = {
        option.name: option
        for option in context.command.params
        if option.name not in (None, "config", "help") and option.opts[0].startswith("-")
    }
    by_flag = {flag.lstrip("-"): name for name, o in options.items() for flag in o.opts}
    found: dict[str, Any] = {}
    for key, value in node.value:
        where = _at(path, key.start_mark)
        given = str(key.value)
        name = by_flag.get(given.replace("_", "-"))
        if name is None:
            close = difflib.get_close_matches(given, by_flag, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}: {context.command.name} has no option {given!r}{hint}")
        if name in found:
            raise ValueError(f"{where}: {given!r} stands here twice")
        try:
            found[name] = _checked(options[name], value, context)
        except typer.BadParameter as error:
            raise ValueError(f"{_at(path, value.start_mark)}: {given}: {error.message}") from error
    return found


def _checked(option: Any, node: Any, context: typer.Context) -> Any:
    """As on the command line: the text as it is written, so that `no` is no `False`."""
    import yaml

    several = isinstance(node, yaml.SequenceNode)
    if several and not option.multiple:
        raise typer.BadParameter("takes one value, got a list")
    items = node.value if several else [node]
    for item in items:
        if not isinstance(item, yaml.ScalarNode) or item.tag == "tag:yaml.org,2002:null":
            raise typer.BadParameter("has no value" if not several else "must be a list of values")
    values = [item.value for item in items]
    return option.process_value(context, values if option.multiple else values[0])


def _at(path: Path, mark: Any) -> str:
    return str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
