"""The notebooks: run as they are, on short sounds; hold no outputs and no logic of their own."""

import ast
import base64
import csv
import os
from pathlib import Path
from typing import Any

import pytest

import byola_rq
from byola_rq.audio.frontend import Statistics
from byola_rq.notebook import explore, hear_views, pick_clip
from byola_rq.synthesis.generate import make_clip, write_wav
from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="notebooks need nbclient and ipykernel")

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
KINDS = ("voice-en", "note-brass", "event-siren", "word-yes")


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / name, as_version=4)


def run(name: str, parameters: dict[str, object], folder: Path) -> Any:
    """The executed notebook; what its cell `parameters` names has other values.

    Sliders are kept out: what they show reaches nbclient over the channel on which it waits for
    the cell to end, and now and then it then waits until its timeout (seen with nbclient 0.11).
    """
    notebook = read(name)
    (place,) = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    known = notebook.cells[place].source
    assert all(f"{key} = " in known for key in parameters)
    source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    stand_in = folder / "without_sliders"
    stand_in.mkdir()
    (stand_in / "ipywidgets.py").write_text("raise ImportError('kept out')")
    paths = [str(stand_in), str(ROOT), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("OMP_NUM_THREADS", "1")
        client = nbclient.NotebookClient(
            notebook, timeout=150, resources={"metadata": {"path": str(ROOT / "notebooks")}}
        )
        client.execute()
    if kept := os.environ.get("BYOLA_RQ_KEEP_NOTEBOOKS"):  # to look at the pictures
        nbformat.write(notebook, Path(kept) / name)
    return notebook


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook: Any) -> list[bytes]:
    data = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
    return [base64.b64decode(each) for each in data if each]


def players(notebook: Any) -> list[str]:
    html = [output.get("data", {}).get("text/html", "") for output in outputs(notebook)]
    return [text for each in html if "<audio" in (text := "".join(each))]


def texts(notebook: Any) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labeled clips of one second, with its csv."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [("file_name", "label", "split")]
    for kind in KINDS:
        for seed in range(9):
            name = f"{kind}-{seed}.wav"
            write_wav(folder / name, make_clip(kind, seed=seed, seconds=1.0))
            part = "train" if seed < 4 else "valid" if seed < 5 else "test"
            rows.append((name, kind.split("-")[0], part))
    with (folder / "sounds.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_bare(name: str) -> None:
    """No outputs; nothing is defined; nothing is imported but the library, pandas and paths."""
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        assert cell.outputs == []
        assert cell.execution_count is None
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While | ast.Lambda)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            known = {"byola_rq", "evaluate", "matplotlib", "pandas", "pathlib", "sys", "tempfile"}
            assert {each.split(".")[0] for each in names} <= known


def test_listen_to_views(tmp_path: Path) -> None:
    done = run("01_listen_to_views.ipynb", {"KIND": "word-yes", "SEED": 3}, tmp_path)
    # The segment, its quantizations, step curves, two views, distortion.
    assert len(pictures(done)) == 5
    assert len(players(done)) == 2 + 5 + 4
    assert texts(done).count("gain of all players") == 3
    assert "no sliders: `pip install ipywidgets`" in texts(done)
    assert "num_bins = 5, p = 1.0" in texts(done)


def test_sliders_draw_again() -> None:
    pytest.importorskip("ipywidgets", reason="sliders need ipywidgets")
    heard: list[dict[str, object]] = []

    def hear(num_bins: int = 5, bins: str = "random") -> None:
        heard.append({"num_bins": num_bins, "bins": bins})

    controls = explore(hear, num_bins=(1, 60), bins=["random", "uniform"])
    slider, menu, _ = controls.children
    assert (slider.min, slider.max, slider.value) == (1, 60, 5)
    controls.update()
    slider.value = 9
    menu.value = "uniform"
    assert heard[-3:] == [
        {"num_bins": 5, "bins": "random"},
        {"num_bins": 9, "bins": "random"},
        {"num_bins": 9, "bins": "uniform"},
    ]


def test_what_is_moved_is_heard() -> None:
    clip = pick_clip("", "voice-en", 1)
    options = {"p": 1.0, "bins": "random", "values": "random", "seed": 3}
    few, many = (hear_views(clip, num_bins=num, **options) for num in (2, 60))  # type: ignore[arg-type]
    for listening, num_bins in ((few, 2), (many, 60)):
        _, step = listening.views[0].steps
        assert step.band is not None
        assert len(step.band.values) == num_bins
    never = hear_views(clip, num_bins=2, **(options | {"p": 0.0}))  # type: ignore[arg-type]
    assert not never.views[0].steps[1].is_applied


def test_explore_embeddings(labelled: Path, tmp_path: Path) -> None:
    model = tmp_path / "encoder.safetensors"
    embedder = byola_rq.Embedder.untrained(dim=32, seed=5)
    embedder.with_statistics(Statistics(-7.0, 4.0)).save(model)
    done = run(
        "02_explore_embeddings.ipynb",
        {"MODEL": str(model), "CLIPS": str(labelled), "QUERY": 2, "METHOD": "tsne"},
        tmp_path,
    )
    assert len(pictures(done)) == 3  # bars, and a map each
    assert len(players(done)) == 2 * (1 + 5)
    assert "voice" in str(outputs(done))


def test_read_reports(labelled: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from evaluate.__main__ import app

    models = ["--baseline", "logmel", "--baseline", "random"]
    where = ["--task", str(labelled / "sounds.csv"), "--out", str(tmp_path)]
    evaluated = CliRunner().invoke(app, [*models, *where])
    assert evaluated.exit_code == 0, evaluated.output
    done = run(
        "03_read_reports.ipynb",
        {"RESULTS": str(tmp_path), "SETS": str(labelled), "TASK": "sounds"},
        tmp_path,
    )
    assert len(pictures(done)) == 1 + 2  # bars, and confusions of both models
    assert players(done)
    assert "taken for" in str(outputs(done))
    assert "not under" not in texts(done)
