"""House rules of the repository: one configuration, a clean wheel, docstrings, the README."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import byola_rq
from byola_rq.config import Config, default_config_path
from tests.conftest import ROOT

# Words that begin a fragment, not a sentence: a docstring begins with a verb or with a noun.
FRAGMENT = re.compile(
    r"[`.,]*(as|by|for|from|how|in|of|to|what|when|where|whether|which|who|with)\b", re.IGNORECASE
)
VAGUE = re.compile(
    r"[`.,]*(all|among|and|any|at|both|but|each|if|its|may|not|on|one|that|their|those|until)\b",
    re.IGNORECASE,
)


def version_to_be_built() -> str:
    """The version in pyproject.toml; that of an editable install is from when it was installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def test_the_citation_and_the_changelog_name_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    head = re.search(r"^## (\S+) - (\S+)$", changelog, flags=re.MULTILINE)
    assert head
    assert citation["version"] == version_to_be_built() == head[1]
    assert citation["date-released"] == head[2]


def test_the_package_carries_the_configuration_of_the_root() -> None:
    assert default_config_path().read_bytes() == (ROOT / "config.yaml").read_bytes()


def test_every_key_of_the_configuration_is_explained() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    keys = [line for line in lines if re.match(r"\s+\w+: \S", line)]
    sections = yaml.safe_load("\n".join(lines))
    assert sections.keys() == Config.model_fields.keys()
    # Those of byol and optimizer without a comment are named after their paper's symbols.
    explained = [line for line in keys if "#" in line]
    assert len(explained) > 0.75 * len(keys)


def test_the_wheel_holds_the_package_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("byola_rq", "evaluate", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, source],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {
        "byola_rq",
        f"byola_rq-{version_to_be_built()}.dist-info",
    }
    recipes = [f"recipes/{path.name}" for path in (ROOT / "byola_rq/recipes").glob("*.yaml")]
    data = ("py.typed", "config.yaml", "listen/page.html", "model/builtin.safetensors")
    data += ("model/builtin.md", "model/builtin_sources.csv.gz", *recipes)
    assert {f"byola_rq/{each}" for each in data} <= set(names)
    assert wheel.stat().st_size < 4e6
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "byola_rq").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_public_names_exist_and_are_documented() -> None:
    for name in byola_rq.__all__:
        assert getattr(byola_rq, name).__doc__, name
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = byola_rq.nonsense
    assert set(byola_rq.__all__) <= set(dir(byola_rq))


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make (\w+)", "\n".join(readme_blocks("sh")), flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_no_pickle_and_no_eval() -> None:
    forbidden = re.compile(
        r"\bimport pickle\b|\bpickle\.|(?<![\w.`])eval\(|\bexec\(|yaml\.load\("
        r"|shell=True|allow_pickle=True"
        r"|(?<!safetensors\.)torch\.load\((?!.*weights_only=True)"
    )
    for path in [*ROOT.glob("byola_rq/**/*.py"), *(ROOT / "evaluate").rglob("*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            code = line.split("#")[0]
            is_prose = "no pickle" in code
            assert is_prose or not forbidden.search(code), f"{path}:{number}"


def test_every_module_imports_and_says_what_it_is() -> None:
    for path in ROOT.glob("byola_rq/**/*.py"):
        if path.stem not in {"__init__", "__main__"}:
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = importlib.import_module(".".join(parts))
            assert (module.__doc__ or "").splitlines()[0].endswith((".", ",")), path


@pytest.fixture(scope="module")
def docstrings() -> list[tuple[str, str]]:
    """Return place and text of every docstring of the code."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text)
        for folder in ("byola_rq", "evaluate", "benchmarks", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]


def test_docstrings_begin_with_a_verb_or_a_noun(docstrings: list[tuple[str, str]]) -> None:
    found = [
        f"{place}: {text.splitlines()[0]}"
        for place, text in docstrings
        if FRAGMENT.match(text) or VAGUE.match(text)
    ]
    assert not found, "\n".join(found)


def test_lines_of_arguments_stand_alone(docstrings: list[tuple[str, str]]) -> None:
    found = [
        f"{place}: {name}: {line}"
        for place, text in docstrings
        for section in re.findall(r"^(?:Args|Attributes):\n((?: .*\n?)+)", text, re.MULTILINE)
        for name, line in re.findall(r"^ {4}(\w+): (.+)", section, re.MULTILINE)
        if FRAGMENT.match(line)
    ]
    assert not found, "\n".join(found)
