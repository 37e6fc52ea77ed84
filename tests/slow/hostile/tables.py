"""Lists of clips (csv, tsv, AudioSet's), configurations, and JSON of publishers."""

from collections.abc import Iterator
from pathlib import Path

from tests.slow.hostile.audio import embedding, wav
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    REFUSED,
    SPOILED,
    Case,
    Made,
    files,
    link,
    nested,
    pipe,
    put,
)

EVALUATE = "evaluate --task in/x.csv --baseline logmel --out out --device cpu --workers 1"
INSPECT = "evaluate inspect --task in/x.csv --out out/problems.csv --workers 1"
PRETRAIN = "pretrain in/x.yaml run.dir=out data.source={packed}"

# Manifests, and what stands beside them: in/a.wav.
MANIFESTS: dict[str, tuple[str | bytes, frozenset[int]]] = {
    "a path that climbs": ("path\n../around/victim.txt\n", REFUSED),
    "a path of the system": ("path\n/etc/passwd\n", REFUSED),
    "a path to an endless device": ("path\n/dev/zero\n", REFUSED),
    "a path to the terminal": ("path\n/dev/stdin\n", REFUSED),
    "a path to a FIFO": ("path\nfifo.wav\n", REFUSED),
    "a path with a null": ("path\na\0.wav\n", REFUSED),
    "a path of 100,000 letters": (f"path\n{'a' * 100_000}.wav\n", REFUSED),
    "a path of 100,000 folders": (f"path\n{'a/' * 60_000}b.wav\n", REFUSED),
    "a field without end": (f'path\n"{"a" * 3_000_000}\n', REFUSED),
    "100,000 columns": (",".join(f"c{n}" for n in range(100_000)) + "\n", REFUSED),
    "spoiled columns": (f"{SPOILED},{FORMULA}\na.wav\n", REFUSED),
    "a spoiled path": (f"path\n{SPOILED}.wav\n", REFUSED),
    "not UTF-8": (b"path\n\xff\xfe\x9b.wav\n", REFUSED),
    "UTF-16": ("path\na.wav\n".encode("utf-16"), REFUSED),
    "a start of infinity": ("path,start,end\na.wav,inf,\na.wav,nan,1e999\n", REFUSED),
    "a start of 1e300": ("path,start\na.wav,1e300\n", REFUSED),
    "an end of 1e300": ("path,start,end\na.wav,0,1e300\n", NAMED),
    "an end before its start": ("path,start,end\na.wav,0.9,0.1\n", REFUSED),
    "a start of 5,000 digits": (f"path,start\na.wav,{'9' * 5_000}\n", REFUSED),
    "ids that climb and spoil": (
        f"path,clip_id,labels\na.wav,../../{SPOILED},{FORMULA}\n",
        NAMED,
    ),
}
# The first line of fairseq's form is a folder.
FAIRSEQ: dict[str, str] = {
    "a folder of the system": "/\netc/passwd\t1\n",
    "a folder that climbs": "../around\nvictim.txt\t1\n",
    "a folder of devices": "/dev\nzero\t1\nfull\t1\n",
    "a spoiled folder": f"{SPOILED}\na.wav\t1\n",
    "a folder with a null": "a\0b\na.wav\t1\n",
}
_HEAD = "# YTID, start_seconds, end_seconds, positive_labels\n"
SEGMENTS: dict[str, str] = {
    "a start of infinity": f"{_HEAD}abc, inf, nan, x\n",
    "an id that climbs": f'{_HEAD}../a, 0, 1, "/m/x"\n',
    "spoiled": f'{_HEAD}{SPOILED}, 0, 1, "{FORMULA}"\n',
}
LABELLED: dict[str, str | bytes] = {
    "a path that climbs": "file_name,label,split\n../around/victim.txt,a,train\n",
    "a FIFO": "file_name,label,split\nfifo.wav,a,train\n",
    "a device": "file_name,label,split\n/dev/zero,a,train\n",
    "a null": "file_name,label,split\na\0.wav,a,train\n",
    "spoiled labels": f"file_name,label,split\na.wav,{SPOILED}\n{MARKUP},train\n",
    "a spoiled split": f"file_name,label,split\na.wav,a,{SPOILED}\n",
    "no UTF-8": b"file_name,label,split\na.wav,\xff\xfe,train\n",
    "a field without end": f'file_name,label,split\n"{"a" * 3_000_000}',
    "a fold of 100,000 letters": f"file_name,label,fold\na.wav,a,{'f' * 100_000}\n",
    "100,000 columns": ",".join(f"c{n}" for n in range(100_000)) + "\n",
}


def _laughs(levels: int) -> str:
    """Aliases of aliases: ten times as much on each level."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]")
    return "\n".join(lines) + f"\nrun: *a{levels - 1}\n"


YAMLS: dict[str, str | bytes] = {
    "aliases of 10**6": _laughs(6),
    "aliases of 10**9": _laughs(9),
    "aliases of 10**30": _laughs(30),
    "an alias in itself": "run: &a [*a]\n",
    "a mapping in itself": "run: &a {dir: *a}\n",
    "merged keys without end": "a: &a {b: 1}\n"
    + "\n".join(
        f"m{n}: &m{n} {{<<: [*{'m' if n else 'a'}{n - 1 if n else ''}]}}" for n in range(9)
    ),
    "brackets without end": nested(),
    "braces without end": nested("{a: ", "}", 5_000),
    "lists without end": "- " * 5_000,
    "Python's tags": "run: !!python/object/apply:os.system ['touch ../around/owned']\n",
    "Python's tags, new": "run: !!python/object/new:os.system ['touch ../around/owned']\n",
    "a tag of nobody": "run: !owned {}\n",
    "binary": "run: !!binary '%%%'\n",
    "a date that is none": "run: 2024-99-99\n",
    "a date of 10**9 years": "run: 9999-12-31T23:59:60.999999999+99:99\n",
    "a number of 5,000 digits": f"run: {{seed: {'9' * 5_000}}}\n",
    "a hexadecimal number of 5,000 digits": f"run: {{seed: 0x{'f' * 5_000}}}\n",
    "a number base 60": f"run: {{seed: {':'.join(['59'] * 2_000)}}}\n",
    "keys that are lists": "? [a, b]\n: c\n",
    "keys that are numbers": "1: 2\n.nan: 3\nnull: 4\n",
    "two documents": "run: {}\n---\nrun: {}\n",
    "no document": "",
    "a word": "run\n",
    "a null": "run: 'a\0b'\n",
    "not UTF-8": b"run: \xff\xfe\n",
    "half a surrogate": 'run: "\\ud800"\n',
    "spoiled keys": f'"{SPOILED}": 1\n"a\\e[31m": "\\e]0;owned\\a"\n',
    "a spoiled value": '{run: {dir: "a\\e]0;owned\\a\\u202e", seed: "\\e[31m"}}\n',
    "a value of 10 MB": f"run: {{seed: {'a' * 10_000_000}}}\n",
    "tabs": "run:\n\t- a\n",
}


OVERRIDES = {
    "brackets without end": f"run.seed={nested(depth=10_000)}",
    "an alias in itself": "'data.source=&a [*a]'",
    "a date that is none": "run.seed=2024-99-99",
    "a number of 5,000 digits": f"run.seed={'9' * 5_000}",
    "Python's tags": "'run.seed=!!python/object/apply:os.getpid []'",
    "bands without end": "frontend.n_mels=8000000000",
    "an FFT without end": "frontend.n_fft=80000000000",
    "a segment without end": "data.segment_seconds=1e300",
    "a seed without end": "run.seed=1e300",
    "a dimension without end": "encoder.dim=100000000000",
}


def _with_sounds(name: str, data: str | bytes):
    def make(place: Path, _: Made) -> None:
        put(place / "in" / name, data)
        put(place / "in/a.wav", wav())
        pipe(place / "in/fifo.wav")

    return make


def _device(name: str, target: str):
    return lambda place, _: link(place / "in" / name, target)


def cases() -> Iterator[Case]:
    for name, (text, statuses) in MANIFESTS.items():
        make = _with_sounds("x.csv", text)
        yield Case("csv", name, (embedding("in/x.csv"),), make, statuses)
    for name, line in FAIRSEQ.items():
        yield Case("tsv", name, (embedding("in/x.tsv"),), _with_sounds("x.tsv", line))
    for name, line in SEGMENTS.items():
        make = _with_sounds("x.csv", line)
        yield Case("segment list", name, (embedding("in/x.csv=in"),), make)
    for number, (name, labelled) in enumerate(LABELLED.items()):
        make = _with_sounds("x.csv", labelled)
        yield Case("labelled csv", name, ((EVALUATE, INSPECT)[number % 2],), make)
    for name, yaml in YAMLS.items():
        yield Case("yaml", name, (PRETRAIN,), files({"x.yaml": yaml}))
    for name, word in OVERRIDES.items():
        command = f"pretrain {{small}} run.dir=out data.source={{packed}} {word}"
        yield Case("override", name, (command,), files({}))
    yield Case("yaml", "a FIFO", (PRETRAIN,), lambda place, _: pipe(place / "in/x.yaml"))
    yield Case("yaml", "an endless device", (PRETRAIN,), _device("x.yaml", "/dev/zero"))
    yield Case("csv", "an endless device", (embedding("in/x.csv"),), _device("x.csv", "/dev/zero"))
