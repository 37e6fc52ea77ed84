"""Accuracy of `byola-rq classify` with 1, 3 or 10 labels per class, by embedding model.

Run from the checkout: python -m benchmarks.few_labels --help
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.harness import new_app
from benchmarks.retrieval import embed_paths
from byola_rq.embed.embedder import load
from byola_rq.explore.classify import fit_classifier
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Clip

app = new_app(no_args_is_help=True)


@app.command()
def main(
    task: Annotated[list[Path], typer.Argument(help="Labeled csv files.")],
    model: Annotated[
        list[str],
        typer.Option(help="Model file, `builtin`, `random` or `logmel`; repeatable."),
    ],
    labels: Annotated[list[int], typer.Option(help="Labels per class; repeatable.")] = [1, 3, 10],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=2, help="Number of draws of labeled clips.")] = 10,
) -> None:
    """Print accuracy on the test clips in percent: mean and standard deviation over draws.

    Labeled clips are drawn from the other parts; sets in folds are tested on their last fold.

    \b
    Example:
      python -m benchmarks.few_labels esc10/metadata.csv --model builtin --model random
    """
    embedder = load()
    print("| task | model | " + " | ".join(f"{num} per class" for num in labels) + " |")
    print("|---" * (2 + len(labels)) + "|")
    for path in task:
        clips = read_labelled_csv(path).clips
        tested_part = "test" if any(clip.part == "test" for clip in clips) else clips[-1].part
        is_test = np.array([clip.part == tested_part for clip in clips])
        names = np.array([clip.label for clip in clips])
        for name in model:
            rows = embed_paths(name, [clip.path for clip in clips])
            cells = []
            for num in labels:
                scores = []
                for seed in range(seeds):
                    chosen = draw_labeled(clips, ~is_test, num, seed)
                    made = fit_classifier(
                        rows[chosen],
                        [clips[place].label for place in chosen],
                        [clips[place].group or clips[place].file_name for place in chosen],
                        rows,
                        embedder,
                        seed=seed,
                    )
                    best = made.predict_proba(rows[is_test]).argmax(axis=1)
                    scores.append(100 * (np.asarray(made.classes)[best] == names[is_test]).mean())
                cells.append(f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}")
            print(f"| {path.parent.name} | {name} | " + " | ".join(cells) + " |", flush=True)


def draw_labeled(clips: tuple[Clip, ...], is_allowed: np.ndarray, num: int, seed: int) -> list[int]:
    """Draw positions of up to `num` clips of each class; the same for every model."""
    places = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(np.flatnonzero(is_allowed)).tolist():
        places[clips[place].label].append(place)
    return [place for of_class in places.values() for place in of_class[:num]]


if __name__ == "__main__":
    app()
