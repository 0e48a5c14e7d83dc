"""`kedge check-data`: decode every image before an hour is spent on training."""

import time
from pathlib import Path

from kedge.cli.output import progress_bar


def run(
    data: str,
    *,
    val: str | None = None,
    test: str | None = None,
    out: str | None = None,
    workers: int = 0,
) -> int:
    """Decode every image of a data set before you train, and say in a table what is there and what is to be mended.

    Counted: images of each class and part, formats and sizes. To mend: damaged and empty files, kinds that are not
    read, images under names that are no image's, the same image bit for bit in two parts or classes, tiny ones, classes
    with one image, photos beside the folders of the classes. Nothing is changed and nothing learned; kedge audit looks
    further: for copies compressed anew, wrong labels, bad photos.

    Args:
        data (FOLDER): a folder of images with one folder per class, also in train, val and test, or a data set's name;
            a folder of images alone is looked at without labels
        val (FOLDER): a folder of validation images elsewhere
        test (FOLDER): a folder of test images elsewhere
        out (FILE): a CSV file with a line for each file that is to be mended: finding, file, other file, words
        workers: threads that decode; 0: one for each core, eight at most

    Exit status: 0 if there is nothing to mend, 3 if there is, 1 if the folder cannot be read as data at all, 2 for a
    wrong command line.

    Examples:
        kedge check-data photos
        kedge check-data photos --out mend.csv && kedge train --data photos
    """
    if out is not None and Path(out).suffix.lower() != ".csv":
        raise ValueError(f"--out is a CSV file, so its name ends in .csv, got {out}")
    from kedge.auditing.checking import check_data
    from kedge.auditing.checking_words import as_csv, lines, mend
    from kedge.files import write_text

    began = time.perf_counter()
    with progress_bar("decoding") as (advance, _):
        checked = check_data(data, val, test, workers or None, advance)
    print("\n".join(lines(checked, time.perf_counter() - began)))
    if out is not None:
        write_text(Path(out), as_csv(checked))
        print(f"files to mend: {out}")
    return 3 if mend(checked) else 0
