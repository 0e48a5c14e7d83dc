"""`kedge demo`: a page on this machine to try a model with photos."""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kedge.cli.output import progress_bar
from kedge.cli.resolve_model import Source, find
from kedge.cli.trained_on import images_of_run

if TYPE_CHECKING:
    from kedge.demo import Similar

INSTALL = 'python -m pip install -e ".[demo]"'


def run(
    model: str,
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    show_photos: bool = False,
    device: str = "auto",
) -> int:
    """Try a model on a page in the browser.

    A photo goes in by dragging, choosing, pasting or the camera. Out come the label and its confidence, whether the
    answer is rejected, which references of an anchored model answer otherwise, and a map of the places that the answer
    rests on (with captum: python -m pip install captum).

    The page is served by this machine for this machine, loads nothing from elsewhere, reports to nobody, and neither it
    nor the photos are written to disk. Ctrl-C ends it.

    Args:
        model (MODEL): {SEVERAL}
        port: where the page is served; 0: any that is free
        host: the address to listen at; 0.0.0.0 lets every machine that reaches this one use the page
        show_photos: also show training photos, to whoever sees the page: those of the bank that answer otherwise, and
            those of the run that are most like the photo (they are read first)
        device: {DEVICE}

    Examples:
        kedge demo mine
        kedge demo mine --show-photos
        kedge demo hf-hub:ada/litter --port 0
    """
    source = find(model, several=True)
    loaded: Any = source.load(device)
    from kedge.demo import Answering, Server
    from kedge.demo.answering import check_classifier
    from kedge.deploy.model_card import means_of
    from kedge.deploy.photos import photos_in
    from kedge.training.recorded import read_run

    check_classifier(loaded, model)
    photos = photos_in(loaded, means_of(*read_run(source.run))) if loaded.count() else 0
    similar = alike(source, loaded) if show_photos else None
    answering = Answering(loaded, source.name, pictures=show_photos or not photos, similar=similar)
    with Server(answering, host, port) as server:
        for words in remarks(server, photos, show_photos):
            print(f"kedge demo: {words}", file=sys.stderr)
        print(server.address, flush=True)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            print("\nkedge demo: ended", file=sys.stderr)
    return 0


def remarks(server: Any, photos: int, show_photos: bool) -> list[str]:
    """What whoever starts the page is to know."""
    words = [] if find_spec("captum") else [f"no map: it needs captum ({INSTALL})"]
    if photos and not show_photos:
        words.append(f"the {photos} photos of the bank are not shown (--show-photos shows them)")
    if not server.local:
        shown = ", and with it training photos" if show_photos else ""
        words.append(f"careful: whoever reaches this machine at port {server.server_port} can use the page{shown}")
    return [*words, "open this address in a browser; Ctrl-C ends it"]


def alike(source: Source, model: Any) -> "Similar | None":
    """The training photos of a run, looked at; None, and why is said, where they are not here."""
    from kedge.demo import Similar

    if source.members or not source.recipe():
        print("kedge demo: no training photos are shown: the model belongs to no run here", file=sys.stderr)
        return None
    try:
        train = images_of_run(source, held_out=False).train
        if tuple(train.image_shape) != tuple(model.input_shape):
            raise ValueError(f"they are read as {train.image_shape}, and the model takes {model.input_shape}")
        with progress_bar("looking at training photos") as (progress, _):
            return Similar(model, train, progress)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"kedge demo: no training photos are shown: {error}", file=sys.stderr)
        return None
