"""`kedge audit`: look through a data set for copies, wrong labels, bad photos, memorised and hard images."""

from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.output import progress_bar
from kedge.cli.resolve_model import Source, check_weights, find
from kedge.cli.results_folder import free_folder

if TYPE_CHECKING:
    from kedge.auditing.gathering import Pool


def run(
    data: str,
    *,
    val: str | None = None,
    test: str | None = None,
    run_: str | None = None,
    weights: str | None = None,
    learning_curve: bool = False,
    hard: float = 0.02,
    out: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
) -> int:
    """Look through a data set before you trust it: what is there twice, labelled wrongly, dark, blurred or odd.

    Copies are looked for within and across the parts: bit for bit, compressed anew, in another size, with edges cut
    off. Labels are judged by forty small heads on frozen features, each trained on 70 % of the images: those that the
    heads left out tell doubtful labels; what is right only where it was trained on is memorised.

    Without --run the features are simple ones of the pixels: good for digits and the like, weak for photos, and then
    the page says so. A published network is the best judge of photos. The features of a run that was trained on these
    very images know their labels, wrong ones too: it hides some.

    Writes audit.html, contact sheets of each kind of finding, and audit.csv: file, part, label, finding, score, partner
    file, words. Changes and deletes nothing.

    Args:
        data (FOLDER): a folder of images with one folder per class, also in train, val and test, or a data set's name;
            a folder of images alone is looked at without labels
        val (FOLDER): a folder of validation images elsewhere
        test (FOLDER): a folder of test images elsewhere
        run_ (MODEL): whose features judge the labels: {TRAINED}, timm/NAME: a network of timm with its
            published weights, or hf-hub:OWNER/NAME; null: features of the pixels
        weights (FILE): with the weights of a network written timm/NAME, in place of the library's
        learning_curve: also measure whether more photos would help, and of which class: accuracy with parts of the
            training images at equal steps
        hard: share of the images that are listed as hard
        out (FOLDER): where the two files go; null: runs/audit-NAME of the data, numbered
        seed: of all draws
        batch_size: {BATCH_SIZE}
        workers: processes that decode images for the network
        device: {DEVICE}

    Examples:
        kedge audit photos --run timm/resnet50 --learning_curve
        kedge audit photos/train --test photos/test --run runs/mine
    """
    if not 0 <= hard <= 1:
        raise ValueError(f"--hard is a share of the images, 0 to 1, got {hard}")
    if weights is not None and run_ is None:
        raise ValueError(f"--weights {weights} is for a network: name it with --run timm/NAME")
    options = dict(locals())
    source = None if run_ is None else find(run_)
    if source is not None:
        check_weights([source], weights)
    from kedge.auditing import audit
    from kedge.auditing.page import lines, write_audit
    from kedge.cli.flags import command_line

    model = None if source is None else source.load(device, weights)
    with progress_bar("auditing") as (advance, _):
        result = audit(
            data, val, test, model, "" if source is None else source.name, hard, learning_curve, batch_size, workers,
            seed, lambda what: advance,
        )  # fmt: skip
    if source is not None and (known := _trained_on(source, result.pool)):
        result.notes.append(
            f"the network {source.name} was trained on {known:,} of these images and knows their labels, wrong ones "
            "too: it hides some of the doubtful and memorised ones"
        )
    folder = Path(out) if out else free_folder(Path("runs") / f"audit-{result.pool.name}", "audit.html")
    written = write_audit(result, folder, command_line("audit", options))
    print("\n".join(lines(result)))
    print(f"look at {written[1]} ({len(result.findings):,} findings in {written[0].name})")
    return 0


def _trained_on(source: Source, pool: "Pool") -> int:
    """How many images of the pool the model was trained on, bit for bit, as far as is known."""
    from kedge.cli.trained_on import trained_by

    record = trained_by(source)
    return 0 if record is None else sum(pool.parts[part].key(row) in record.seen for part, row in pool.places)
