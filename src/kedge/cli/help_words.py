"""What `{NAME}` stands for in the docstrings of commands: what is said in several of them, and what rooms hold."""

from kedge import catalog
from kedge.cli.parse import attack_words
from kedge.own_code import ALLOW_CODE as ALLOW_CODE

TRAINED = "a run folder (runs/NAME, or only NAME) or a model folder"
MODEL = (
    "a run folder (runs/NAME, or only NAME), a model folder, an ONNX file written by kedge export, timm/NAME: a "
    "network of timm with its published weights, or hf-hub:OWNER/NAME (also @REVISION): a model of the Hugging Face hub"
)
SEVERAL = f"{MODEL}; mean(MODEL,MODEL,...) is the mean of the probabilities of several"
MODELS = (
    f"{SEVERAL}; or package.module:attribute, any Python callable from images in [0, 1] to logits "
    "(package.module:make() calls make first; the module is imported from the current directory and thereby run). "
    "NAME=MODEL gives it another name, NAME=MODEL,MODEL,... says that these are one method trained with several seeds"
)
BATCH_SIZE = "images that go through a network at a time"
WORKERS = "processes that decode images; null: by the size of the images"
DEVICE = "auto, cpu, cuda, ..."
LICENSE = "the hub's word for it, such as mit; null: the card says none"


def scores() -> str:
    """The scores in the order of tables."""
    return ", ".join(catalog.ordered("scores"))


def fitted_scores() -> str:
    """The scores that learn from training images."""
    return ", ".join(name for name in catalog.ordered("scores") if catalog.stated("scores", name, "fits"))


def attacks() -> str:
    """The words of --attack with what they are, in a sentence."""
    parts = []
    for name in catalog.ordered("attacks"):
        words = [word for word, spec in attack_words().items() if name in spec]
        parts.append(f"{' or '.join(words)} ({catalog.summary('attacks', name).rstrip('.')})")
    return ", ".join(parts)


def corruptions() -> str:
    """The words for several corruptions, with how many each stands for."""
    groups: dict[str, int] = {}
    for name in catalog.ordered("data.corruptions"):
        for word in catalog.stated("data.corruptions", name, "groups", ()):
            groups[word] = groups.get(word, 0) + 1
    return ", ".join(f"{word} ({count})" for word, count in groups.items())


def test_time() -> str:
    """The ways of adapting while predicting."""
    return ", ".join(catalog.names("test_time"))


def procedures() -> str:
    """The ways of adapting a model."""
    return ", ".join(catalog.names("procedures")).replace("_", "-")


def procedures_in_words() -> str:
    """The ways of adapting a model with what they are, a line each."""
    named = ((name.replace("_", "-"), catalog.summary("procedures", name)) for name in catalog.names("procedures"))
    return "\n".join(f"  {name:16}{what}" for name, what in named)
