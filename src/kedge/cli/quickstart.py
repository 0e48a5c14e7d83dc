"""`kedge quickstart`: a standard and an anchored model on handwritten digits, compared on one page."""

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jsonargparse

    from kedge.data import ImageSet

SEEN = [str(digit) for digit in range(8)]
UNSEEN = ["8", "9"]
CORRUPTIONS = ("gaussian_noise", "gaussian_blur")
DESCRIPTION = """\
See what kedge does, in a minute or two on a laptop: train a standard and an anchored model on the handwritten digits
0 to 7 with the same network and the same number of epochs, then compare them on clean, noisy and blurred digits, and
on the digits 8 and 9 that neither has seen. Needs no download.
"""
EPILOG = """\
The digits are scikit-learn's, 8x8 pixels: too small and too easy for a verdict on the method. The comparison is
whatever comes out; another --seed gives other numbers.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge quickstart`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(prog="kedge quickstart", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument("--epochs", type=int | None, default=None, help="passes over the images; null: as kedge train")
    made.add_argument("--seed", type=int, default=0, help="decides every random draw")
    made.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    made.add_argument(
        "--out", type=str, default="runs/quickstart", help="folder for both runs and the page; numbered if it exists"
    )
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Train both, compare, print, write the page."""
    from kedge import data, evaluation
    from kedge.cli.evaluate import command_line, free_folder, write
    from kedge.reporting import table
    from kedge.reporting.sentences import comparison
    from kedge.training import Recipe, fit

    out = free_folder(Path(config.out))
    print(
        f"Two models of the digits {SEEN[0]} to {SEEN[-1]}, trained alike; {' and '.join(UNSEEN)} are kept from them."
    )
    models = {}
    for name, anchored in (("standard", False), ("anchored", True)):
        recipe = Recipe(
            name=name,
            data="digits",
            classes=SEEN,
            anchored=anchored,
            epochs=config.epochs,
            seed=config.seed,
            device=config.device,
            runs=str(out),
        )
        recipe.check("quickstart")
        start = time.perf_counter()
        with quiet(), one_thread():
            result = fit(recipe, progress=False)
        models[name] = result.model
        seconds = time.perf_counter() - start
        print(
            f"  {name}: {result.recipe.model}, {result.recipe.epochs} epochs in {seconds:.0f} s, "
            f"validation accuracy {result.validation['accuracy']:.1%}"
        )
    digits = data.load("digits", "test")
    test, outside = digits.only_classes(SEEN), digits.only_classes(UNSEEN)
    with one_thread():
        results = evaluation.evaluate(
            models,
            test,
            shift=CORRUPTIONS,
            ood={f"digits {' and '.join(UNSEEN)}": outside},
            seed=config.seed,
            command=command_line("kedge quickstart", parser(), config),
        )
    print()
    print(table(results))
    for question, answer in comparison(results):
        print(f"{question}: {answer}")
    print("One training each, on small and easy images: another --seed gives other numbers.")
    save_samples(digits, out / "images")
    page = write(results, out)
    print(
        f"\nReport: {page.resolve()}\n\n"
        "Next:\n"
        f"  kedge predict {out}/anchored {out}/images\n"
        "      label, confidence and uncertainty of ten digits, 8 and 9 among them\n"
        "  kedge train --data FOLDER\n"
        "      your own photos: FOLDER/cat/*.jpg, FOLDER/dog/*.jpg, ..."
    )
    return 0


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: at 8x8 pixels a second one costs more than it brings, and far more on a busy CPU."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the lines of each epoch off the screen; errors still come through."""
    logger = logging.getLogger("kedge")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def save_samples(digits: "ImageSet", folder: Path) -> None:
    """One test image of each digit as a file, to predict on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(digits.class_names):
        index = int((digits.labels == label).nonzero()[0])
        Image.fromarray(digits[index][0][0].numpy()).save(folder / f"{name}.png")
