"""Write docs/configuration.md from config.yaml and its schema."""

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from byola_rq.config import Config, default_config_path

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

For those who look up a configuration key. `python docs/write_configuration.py` generates this page
from [config.yaml](../config.yaml) and its schema; edit those, not this page.

A configuration is a YAML file with every key. Without one, a command uses the packaged
config.yaml, the paper's recipe. `pretrain --recipe NAME` uses another
([which one?](pretraining.md#4-choose-a-recipe)), and `byola-rq recipes NAME` prints it as a
complete file. You can change any key on the command line, with its value in YAML:

```sh
byola-rq pretrain data.source=/data/my_sounds run.dir=runs/a optimizer.lr=1e-4
byola-rq pretrain my.yaml 'views.augmentations=[mixup, random_resized_crop]' encoder.dim=512
```

Paths are taken literally, not as YAML values (`data.source=2024`); `~` is the home folder. All
unknown keys, missing keys and invalid values are reported at once, before any work. The resolved
configuration is written to `run.dir/config.yaml` and to every checkpoint.
"""


NAMES = {
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    str: "text",
    Path: "path",
    type(None): "null",
}


def render() -> str:
    """The whole page."""
    text = default_config_path().read_text(encoding="utf-8")
    comments = read_comments(text)
    values = yaml.safe_load(text)
    parts = [INTRODUCTION]
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        parts.append(f"## {name}\n")
        summary = (section.__doc__ or "").strip()
        comment = comments.get(name, "")
        parts.append(f"{summary}{f' ({comment})' if comment else ''}\n")
        parts.append("| key | default | allowed | |\n|---|---|---|---|")
        parts.append("\n".join(rows(section, (name,), values[name], comments)) + "\n")
    return "\n".join(parts)


def rows(
    section: Any, path: tuple[str, ...], values: dict[str, Any], comments: dict[str, str]
) -> list[str]:
    """Table rows of a section's keys; those of a section inside it follow its own."""
    lines = []
    for key, field in section.model_fields.items():
        dotted = ".".join((*path, key))
        comment = comments.get(dotted, "")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            told = (field.annotation.__doc__ or "").strip()
            lines.append(f"| **`{dotted}`** | | | {told}{f' ({comment})' if comment else ''} |")
            lines += rows(field.annotation, (*path, key), values[key], comments)
            continue
        default = yaml.safe_dump(values[key], default_flow_style=True).split("\n...")[0].strip()
        allowed = describe(field.annotation, field.metadata)
        cells = (f"`{dotted}`", f"`{default}`", allowed, comment)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def read_comments(text: str) -> dict[str, str]:
    """Dotted key -> its comment: the lines above it, then what stands beside it and runs on."""
    comments: dict[str, str] = {}
    path: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        key = re.match(r"( *)(\w+):", line)
        _, _, comment = line.partition("#")
        if key:
            path = [*path[: len(key[1]) // 2], key[2]]
            comments[".".join(path)] = " ".join([*above, comment.strip()]).strip()
            above = []
        elif comment and re.match(r" {10,}#", line):  # goes on from the line before
            comments[".".join(path)] += f" {comment.strip()}"
        elif comment:
            above.append(comment.strip())
        else:
            above = []
    return {key: comment for key, comment in comments.items() if comment}


def describe(annotation: Any, metadata: Any) -> str:
    """What a value may be, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = describe(arguments[0], [*arguments[1:], *metadata])
    elif origin is Literal:
        text = " or ".join(f"`{_as_yaml(value)}`" for value in arguments)
    elif origin is list:
        text = f"list of {describe(arguments[0], ())}"
    elif origin is tuple:
        text = f"[{', '.join(describe(argument, ()) for argument in arguments)}]"
    elif origin in (Union, UnionType):
        text = " or ".join(describe(argument, metadata) for argument in arguments)
    else:
        text = NAMES.get(annotation, str(annotation))
        if annotation is not type(None):
            text = " ".join([text, " and ".join(_rules(metadata))]).strip()
    return text


def _rules(metadata: Any) -> list[str]:
    """The bounds among a field's metadata; pydantic keeps them as objects of one attribute each."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    flat = [part for entry in metadata for part in (getattr(entry, "metadata", None) or [entry])]
    rules = [
        f"{sign} {getattr(part, name)}"
        for part in flat
        for name, sign in signs.items()
        if getattr(part, name, None) is not None
    ]
    steps = [part.multiple_of for part in flat if getattr(part, "multiple_of", None)]
    checks = [part.func.__name__ for part in flat if hasattr(part, "func")]
    devices = ["(auto, cpu, cuda or cuda:N)"] if "_is_device" in checks else []
    return [*rules, *(f"a multiple of {step}" for step in steps), *devices]


def _as_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value)).split("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
