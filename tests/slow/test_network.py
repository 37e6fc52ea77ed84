"""Nothing opens the network: every command runs where each socket is reported and refused."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL

# Runs before anything else in this process and in those that it starts (loaders, decoders).
AUDIT = """
import os, sys

def _hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        text = f"{event} {arguments[0]!r}"
    elif event in ("socket.connect", "socket.bind", "socket.sendto"):
        if isinstance(arguments[1], (str, bytes)):  # a path: between processes of this machine
            return
        text = f"{event} {arguments[1]!r}"
    elif event == "socket.__new__":
        if arguments[1] == 1:  # AF_UNIX
            return
        text = f"{event} family {arguments[1]}"
    else:
        return
    with open(os.environ["AUDIT_LOG"], "a") as log:
        log.write(f"{os.getpid()} {text}\\n")
    raise RuntimeError(f"network: {text}")

sys.addaudithook(_hook)
with open(os.environ["AUDIT_LOG"] + ".processes", "a") as log:
    log.write(f"{os.getpid()}\\n")
"""


class Audited:
    """Runs Python with the audit hook in it and in all processes it starts."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "audit.log"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(AUDIT)
        path = os.pathsep.join([str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        # Variables that would keep a hub's client from asking have no say here.
        unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY")
        kept = {key: value for key, value in os.environ.items() if key.upper() not in unset}
        self.environment = {**kept, "PYTHONPATH": path, "AUDIT_LOG": str(self.log)}

    def __call__(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=self.environment,
            check=False,
            timeout=300,
        )

    @property
    def attempts(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def num_processes(self) -> int:
        return len(set(Path(f"{self.log}.processes").read_text().split()))


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    return Audited(tmp_path)


@pytest.mark.parametrize(
    "script",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
        "import multiprocessing as m; m.Process(target=print).start(); "
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', "
        "'import socket; socket.socket()']))",
    ],
    ids=["socket", "urllib", "in a child"],
)
def test_the_audit_sees_what_it_should(audited: Audited, tmp_path: Path, script: str) -> None:
    done = audited("-c", script, cwd=tmp_path)
    assert done.returncode != 0
    assert audited.attempts
    assert "network: " in done.stderr


def test_no_command_opens_the_network(audited: Audited, sounds: Path, tmp_path: Path) -> None:
    clip = min(sounds.glob("*.wav"))
    commands = [
        ["doctor"],
        ["synthesize", "made", "--clips", 2],
        ["prepare", sounds, "packed", "--workers", 1],
        ["prepare", "--verify", "packed"],
        ["info", "packed"],
        ["pretrain", *SMALL, "data.source=packed", "run.dir=run", "data.workers=1"],
        ["runs", "run"],
        ["export", "run", "model.safetensors"],
        ["embed", sounds, "-o", "embeddings"],
        ["views", clip, "views.png"],
    ]
    script = f"""
from byola_rq.cli.app import main
if __name__ == "__main__":  # loaders import this file again
    for command in {[[str(word) for word in command] for command in commands]!r}:
        try:
            main(command)
        except SystemExit as end:
            assert not end.code, (command, end.code)
"""
    (tmp_path / "commands.py").write_text(script)
    done = audited("commands.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not audited.attempts
    assert (tmp_path / "embeddings" / "embeddings.npy").exists()
    assert audited.num_processes > 2  # decoders and loaders were watched too


def test_no_public_module_opens_the_network(audited: Audited, tmp_path: Path) -> None:
    """Importing each module, building every public thing, loading, embedding, exporting."""
    names = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "byola_rq").rglob("*.py")
        if path.stem != "__main__"
    )
    script = f"""
import importlib
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:  # an extra that is not installed here
        print(name, error)
import torch, byola_rq
model = byola_rq.load()
waveform = torch.randn(1, 16000)
model(waveform, 16000), model.frames(waveform, 16000), model.save("again.safetensors")
for transform in (byola_rq.RandomizedQuantization(), byola_rq.RandomResizedCrop()):
    transform(torch.randn(2, 1, 64, 96))
try:
    byola_rq.load("no_such_file.safetensors")
except byola_rq.CheckpointError:
    pass
print("done")
"""
    done = audited("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert not audited.attempts


# Clients of the network. huggingface_hub is not among them: where a hub id is named, it asks.
CLIENTS = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "requests",
    "smtplib",
    "urllib",
    "urllib3",
    "webbrowser",
}


def test_no_module_imports_a_network_client() -> None:
    checked = 0
    for path in [*(ROOT / "byola_rq").rglob("*.py"), *(ROOT / "evaluate").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_import = [
            node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        for node in at_import:
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            roots = {module.split(".")[0] for module in modules}
            checked += 1
            assert not roots & CLIENTS, f"{path}:{node.lineno}"
            if "socket" in roots:  # for the name of this machine, in locks and reports
                assert set(_attributes_of(tree, "socket")) <= {"gethostname", "socketpair"}, path
    assert checked > 100


def _attributes_of(tree: ast.AST, module: str) -> list[str]:
    return [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == module
    ]
