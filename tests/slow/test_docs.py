"""README and docs: every command is one, every snippet runs, every link leads somewhere."""

import importlib.util
import inspect
import pkgutil
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer

import byola_rq
from byola_rq.cli.app import app, main
from byola_rq.config import default_config_path, flatten, load_config
from byola_rq.synthesis.generate import write_corpus
from evaluate.__main__ import app as evaluate_app
from evaluate.ablation.grid import read_grid
from tests.conftest import ROOT, SMALL
from tests.refusal import refused

CARD = ROOT / "byola_rq" / "model" / "builtin.md"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", CARD, *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {"byola-rq": app, "evaluate": evaluate_app}


def blocks(page: Path, *languages: str) -> list[str]:
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    text = page.read_text(encoding="utf-8")
    return re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Split each command of a page into words, without comments, assignments and redirections."""
    found = []
    for block in blocks(page, "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("#"):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                words = [word for word in words if word != "&"]
                if words:
                    found.append(words)
    return found


def our_call(words: list[str]) -> tuple[str, list[str]] | None:
    """`byola-rq` or `evaluate`, and the arguments, also behind torchrun, srun and `python -m`."""
    for index, word in enumerate(words):
        if word == "byola-rq":
            return "byola-rq", words[index + 1 :]
        if word == "-m" and words[index + 1] in ("byola_rq", "evaluate"):
            name = words[index + 1].replace("byola_rq", "byola-rq")
            return name, words[index + 2 :]
    return None


ALL_COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_a_command_is_one(words: list[str]) -> None:
    call = our_call(words)
    if call:
        parse(*call)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words


def parse(name: str, arguments: list[str]) -> None:
    """Read the arguments with the command's own parser; the error of a wrong one is raised."""
    group = typer.main.get_command(COMMANDS[name])
    context = group.make_context(name, list(arguments))
    command_name, command, rest = group.resolve_command(
        context, [*context._protected_args, *context.args]
    )
    assert command is not None, arguments
    # A file of the reader's own stands for the recipe; what overrides may say is the schema's.
    command.make_context(command_name, list(rest), parent=context)
    overrides = [word for word in rest if re.match(r"[a-z_]+\.[a-z_.]+=", word)]
    if command_name in ("pretrain", "views"):
        load_config(default_config_path(), overrides)
    if command_name == "ablate" and (ROOT / rest[0]).exists():
        read_grid(ROOT / rest[0], overrides)


def test_a_wrong_command_would_be_seen() -> None:
    with refused(byola_rq.ConfigError, "unknown", key="optimizer.lrr"):
        parse("byola-rq", ["pretrain", "optimizer.lrr=1"])
    with pytest.raises(Exception, match="--color"):
        parse("byola-rq", ["embed", "a", "-o", "c", "--color"])
    with pytest.raises(Exception, match="pretrian"):
        parse("byola-rq", ["pretrian"])
    with pytest.raises(Exception, match="--taks"):
        parse("evaluate", ["model.safetensors", "--taks", "a.csv"])


def test_most_commands_are_of_this_project() -> None:
    ours = [words for param in ALL_COMMANDS for words in param.values if our_call(words)]
    assert len(ours) > 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The places that the pages name, with a few synthesized clips in each."""
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    write_corpus(data / "my_sounds", num_clips=12, seed=4, seconds=(1.0, 1.5))
    clips = sorted((data / "my_sounds").glob("*.wav"))
    shutil.copy(clips[0], data / "my_sounds" / "dog.wav")
    for part in ("unbalanced", "balanced"):
        rows = ["# a", "# num_ytids=4", "# YTID, start_seconds, end_seconds, positive_labels"]
        (data / "audioset" / part).mkdir(parents=True)
        for number, clip in enumerate(clips[:4] if part == "balanced" else clips[4:]):
            identity = f"-{part[:3]}_{number:06d}"
            samples, rate = soundfile.read(clip)
            soundfile.write(data / "audioset" / part / f"{identity}.flac", samples, rate)
            rows.append(f'{identity}, 0.000, 1.000, "/m/068hy,/m/07q6cd_"')
        text = "\n".join(rows) + "\n"
        (data / "audioset" / f"{part}_train_segments.csv").write_text(text)
    labelled = ["file_name,label,split"]
    for number, clip in enumerate(clips):
        split = ("train", "train", "valid", "test")[number // 2 % 4]
        labelled.append(f"{clip},{('robin', 'wren')[number % 2]},{split}")
    (folder / "birds.csv").write_text("\n".join(labelled) + "\n")
    byola_rq.Embedder.untrained(dim=16).save(folder / "encoder.safetensors")
    return folder


# Pages whose commands run from top to bottom, on the small world above. Of the others, the commands
# are parsed: README's are those of these pages, the other commands have tests of their own.
RUN_PAGES = ["pretraining", "evaluation"]
NOT_RUN = {
    "torchrun": "tests/slow/test_ranks.py runs it",
    "/data/sets": "published sets; tests/evaluate runs them in small",
    "miniature": "tests/evaluate/miniature/test_write.py runs it",
    "sets/": "made by the command before, which is not run",
    "runs/k8": "as the run before; the schema has checked it",
    "byola_v2": "too large for a test; tests/recipes resolves it",
    "runs/curve": "too large for a test; the schema has checked them",
    "encoder.init=builtin": "of its own width; tests/train/test_initial_weights.py runs it",
    "adapted/": "of a run of the line above",
    "--label-fraction": "of more clips than there are; tests/evaluate/test_fitting.py runs it",
}


@pytest.mark.parametrize("name", RUN_PAGES)
def test_the_commands_of_a_page_run_in_order(
    name: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in ("birds.csv", "encoder.safetensors"):
        shutil.copy(world / entry, tmp_path)
    monkeypatch.chdir(tmp_path)
    num_run = 0
    for words in commands(ROOT / "docs" / f"{name}.md"):
        call = our_call(words)
        if call is None or any(part in " ".join(words) for part in NOT_RUN):
            continue
        command, arguments = call
        arguments = [word.replace("/data/", f"{world}/data/") for word in arguments]
        if arguments[0] == "pretrain":
            arguments += [word for word in SMALL if word.split("=")[0] not in " ".join(words)]
            arguments += ["train.max_steps=3", "train.segments=null"]
        run_main(command, arguments)
        num_run += 1
    assert num_run >= 3


def run_main(command: str, arguments: list[str]) -> None:
    """Run a command in this process; its status must be 0."""
    call = main if command == "byola-rq" else evaluate_app
    with pytest.raises(SystemExit) as end:
        call(arguments)
    assert not end.value.code, arguments


WITH_SNIPPETS = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run_in_order(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run snippets with the objects that the text names: a waveform, a clip, a model file."""
    shutil.copy(world / "encoder.safetensors", tmp_path)
    shutil.copytree(world / "data" / "my_sounds", tmp_path / "my_sounds")
    monkeypatch.chdir(tmp_path)
    snippets = blocks(page, "python")
    if any("model.onnx" in snippet for snippet in snippets):
        pytest.importorskip("onnxruntime")
        run_main("byola-rq", ["export", "encoder.safetensors", "--onnx", "model.onnx"])
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 32000))
    given: dict[str, Any] = {
        "torch": torch,
        "soundfile": soundfile,
        "waveform": torch.from_numpy(noise).float(),
        "sample_rate": 16000,
        "path": str(tmp_path / "my_sounds" / "dog.wav"),
        "normalized_path": str(tmp_path / "normalized.wav"),
        "__name__": "snippet",
    }
    for number, snippet in enumerate(snippets, start=1):
        name = f"{page.name}, snippet {number}"
        if "$" in snippet:  # of a template, whose own test fills it in
            compile(re.sub(r"\$(\w+)", r"\1", snippet), name, "exec")
        else:
            exec(compile(snippet.replace("/data/", f"{world}/data/"), name, "exec"), given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|mailto:", target):
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor and path.suffix == ".md":
                headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in anchors, f"{page.name}: {target}"


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDERS = "ablations|byola_rq|evaluate|tests|benchmarks|examples|docs|notebooks"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.stem)
def test_files_and_modules_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\b(?:byola_rq|evaluate)(?:\.[A-Za-z]\w*)+", text):
        pkgutil.resolve_name(name)


def test_the_page_of_the_architecture_has_the_floors_of_the_import_contract() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text, flags=re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contracts["tool"]["importlinter"]["contracts"][1]["layers"]
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [
        re.findall(r"\w+", each) for each in layers
    ]
    assert len(re.findall(r"`[\w./]+\.py`", text)) > 25


def test_the_configuration_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location(
        "write_configuration", ROOT / "docs" / "write_configuration.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == module.render(), "run: python docs/write_configuration.py"
    keys = re.findall(r"^\| `([\w.]+)`", page, flags=re.MULTILINE)
    assert set(keys) == flatten(load_config(default_config_path()).model_dump()).keys()
    assert module.read_comments(
        "a:  # x\n  # above\n  b: 1  # beside\n          # on\n  c: 2\n"
    ) == {
        "a": "x",
        "a.b": "above beside on",
    }


@pytest.mark.parametrize("name", byola_rq.__all__)
def test_the_public_names_say_all_that_they_take_and_give(name: str) -> None:
    thing = getattr(byola_rq, name)
    doc = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    parameters = [word for word in inspect.signature(thing).parameters if word != "self"]
    assert not parameters or "Args:" in doc, name
    if inspect.isfunction(thing):
        assert "Returns:" in doc, name
    methods = dict(inspect.getmembers(thing, inspect.isfunction)) if inspect.isclass(thing) else {}
    forward = methods.get("forward")
    if forward and forward.__module__.startswith("byola_rq"):
        assert all(part in inspect.getdoc(forward) for part in ("Args:", "Returns:", "Raises:"))
