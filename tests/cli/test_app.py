"""Errors of the system are one line and a status; a limited encoding loses no result."""

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.audio.opening import open_audio
from byola_rq.cli.app import main
from byola_rq.cli.doctor import examine
from byola_rq.corpus.decoded_clips import measure_each
from byola_rq.errors import ByolaRQError
from byola_rq.sources.clip_source import ClipSource
from tests.conftest import ROOT

NO_NAME = "x" * 300  # more than a file system takes


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    code = end.value.code
    return code if isinstance(code, int) else 0


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", NO_NAME, "-o", "out"],
        ["embed", "a.wav", "-o", NO_NAME],
        ["embed", "a.wav", "-o", "out", "--model", f"{NO_NAME}.safetensors"],
        ["export", NO_NAME, "m.safetensors"],
        ["synthesize", NO_NAME],
        ["views", NO_NAME, "v.png"],
        ["views", "a.wav", f"{NO_NAME}.png"],
        ["listen", NO_NAME, "-o", "p.html"],
        ["prepare", NO_NAME, "packed"],
        ["prepare", "a.wav", NO_NAME],
        ["info", NO_NAME],
        ["runs", NO_NAME],
        ["pretrain", f"data.source={NO_NAME}"],
        ["pretrain", "data.source=sounds", f"run.dir={NO_NAME}", "encoder.dim=8"],
        ["import-weights", NO_NAME, "m.safetensors", "--mean", "0", "--std", "1"],
    ],
)
def test_what_the_system_refuses_is_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "sounds/a.wav", "sounds/b.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, np.random.default_rng(0).uniform(-0.1, 0.1, 32000), 16000)
    assert run(arguments) in {1, 2}
    assert NO_NAME in error_line(capsys)


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere"
)
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    closed, frozen = tmp_path / "closed", tmp_path / "frozen"
    (closed / "in").mkdir(parents=True)
    frozen.mkdir()
    soundfile.write(closed / "in" / "a.wav", np.zeros(16000), 16000)
    closed.chmod(0)
    frozen.chmod(0o555)
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    try:
        for arguments in (
            ["synthesize", frozen / "x", "--clips", "2"],
            ["embed", closed / "in", "-o", tmp_path / "out"],
            ["export", closed / "run", tmp_path / "m.safetensors"],
            ["prepare", closed / "in", tmp_path / "packed"],
        ):
            done = subprocess.run(
                [*(drop if os.geteuid() == 0 else []), sys.executable, "-m", "byola_rq"]
                + [str(each) for each in arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("error: "), done.stderr
            assert str(frozen if "synthesize" in arguments else closed) in done.stderr
            assert len(done.stderr.splitlines()) == 1
    finally:
        closed.chmod(0o755)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_a_letter_loses_no_result(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert run(["synthesize", str(tmp_path / "über 音"), "--clips", "2"]) == 0
    assert run(["info", str(tmp_path / "gone 音")]) == 2
    for stream in streams:
        stream.flush()
        assert b"\\u97f3" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_name_of_several_lines_is_printed_in_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(tmp_path / "a\nb\rc")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\nb\\rc" in line


@contextlib.contextmanager
def no_file_handle_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_clip_is_not_broken_where_handles_are_lacking(tmp_path: Path) -> None:
    """It would be left out, or the job be refused for it."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(16000), 16000)
    with no_file_handle_left():
        with pytest.raises(OSError, match="a.wav") as caught:
            open_audio(path)
        with pytest.raises(OSError, match="a.wav"):
            measure_each([ClipSource("a", file=str(path))], 16000)
    assert not isinstance(caught.value, ByolaRQError)
    open_audio(path).close()


def test_another_system_is_refused_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert next(each for each in examine() if each.name == "system").status == "ok"
    monkeypatch.delattr(signal, "pthread_sigmask")  # as on Windows
    assert run(["recipes"]) == 2
    line = error_line(capsys)
    assert sys.platform in line
    assert "Linux" in line
    system = next(each for each in examine() if each.name == "system")
    assert system.is_failure
    assert system.remedy


HOSTILE = "a\x1b]0;x\x07\u202e\nerror: b"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Return all output to the terminal; check that every line is printable."""
    out, err = capsys.readouterr()
    for line in (*out.split("\n"), *err.split("\n")):
        assert line.isprintable()
    return out + err


class PanicException(BaseException):
    """Exception as raised by libraries written in Rust."""


@pytest.mark.parametrize(
    "fault", [RecursionError(HOSTILE), MemoryError(), KeyError("x"), PanicException("x")]
)
def test_a_fault_is_one_line_and_how_to_see_more(
    fault: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setenv("BYOLA_RQ_DEBUG", "")  # what --debug sets is put back
    monkeypatch.setattr("byola_rq.runs.history.find_runs", fail)
    assert run(["runs", str(tmp_path)]) == 1
    (line,) = printed(capsys).splitlines()
    assert line.startswith(f"error: {type(fault).__name__}")
    assert "--debug" in line
    assert run(["--debug", "runs", str(tmp_path)]) == 1
    text = printed(capsys)
    assert "Traceback" in text
    assert "test_app.py" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [HOSTILE],
        ["info", "a", HOSTILE],
        ["info", f"--{HOSTILE}"],
        ["synthesize", "x", "--clips", HOSTILE],
        ["info", HOSTILE],
        ["runs", HOSTILE],
        ["embed", HOSTILE, "-o", "out"],
        ["prepare", HOSTILE, "out"],
        ["export", HOSTILE, "out"],
        ["pretrain", f"data.source={HOSTILE}"],
        ["pretrain", f"data.{HOSTILE}=1"],
        ["pretrain", f"run.seed={HOSTILE}"],
        ["pretrain", "--recipe", HOSTILE],
        ["embed", "a.wav", "-o", "out", "--model", HOSTILE],
    ],
)
def test_no_argument_rules_the_terminal(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    lines = printed(capsys).splitlines()
    assert not [line for line in lines if line.startswith("error: b")]


def test_no_argument_at_all_is_answered_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    lines = printed(capsys).splitlines()
    assert lines[0].startswith("Usage: byola-rq")
    assert any("pretrain" in line for line in lines[1:])


def test_no_name_rules_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (sounds := tmp_path / "sounds" / HOSTILE).mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    soundfile.write(sounds / f"{HOSTILE}.wav", noise, 16000)
    (sounds / f"broken {HOSTILE}.wav").write_bytes(b"RIFF")
    table = "path,label\n" + f'"{sounds}/{HOSTILE}.wav","{HOSTILE}"\n'
    (tmp_path / "clips.csv").write_text(table)
    assert run(["prepare", "sounds", f"packed {HOSTILE}"]) == 0
    assert run(["prepare", "clips.csv", "labelled"]) == 0
    for arguments in (["info", f"packed {HOSTILE}"], ["info", "labelled"]):
        assert run(arguments) == 0
    assert run(["prepare", "--verify", f"packed {HOSTILE}"]) == 0
    assert "\\x1b]0;x\\x07\\u202e\\nerror: b" in printed(capsys)


def test_configurations_of_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 50)]
    texts = {
        "laughs": "\n".join(["a0: &a0 [x]", *lines]),
        "deep": "data: " + "[" * 10**4,
        "keys": "".join(f"{HOSTILE!r}{i}: {i}\n" for i in range(999)),
        "wide": "\n".join(f"k{i}: 1" for i in range(500)),
        "long": "run: " + "x" * 10**5,
        "date": "run: 2024-99-99",
        "merge": "data: {<<: {source: x}}",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
        for arguments in (["pretrain", f"{name}/config.yaml"], ["runs", name]):
            assert run(arguments) == 2
            message = printed(capsys)
            assert message.startswith("error: ")
            assert len(message) < 20_000
            assert name in message
