"""The import graph of the house: rooms in order, no room reaches upwards, no circles between rooms or files.

Imports inside functions and for types alone count like all others.
"""

import pytest
from benchmarks.house import SOURCE, circles, graph_of

# From the top. A room imports from lines below its own; what stands on one line does not know of each other.
ORDER = (
    "__main__",
    "cli",
    "claims cascade demo",
    "cascade_rule",
    "adaptation experiments deploy",
    "procedures run_page auditing",
    "training evaluation",
    "reporting probing weights",
    "unknown",
    "objectives scores test_time hub selection gate",
    "attacks optim checkpoint metrics ensemble expert_weights",
    "architectures named_model stated",
    "anchoring networks",
    "data confidence postprocess",
    "samplers heads",
)
GROUND = {  # modules that stand alone, and know one another at most
    "_version", "binomial", "catalog", "checks", "cifar_resnet", "clock", "devices", "epsilon", "experts", "files",
    "full_disk", "json_text", "layer_ensemble", "layout", "members", "memory", "own_code", "pretrained", "printable",
    "regular", "rejection", "residual", "seeds", "specs", "torchvision_networks", "yaml_text",
}  # fmt: skip
LINES = {room: number for number, line in enumerate(ORDER) for room in line.split()}


def test_no_room_reaches_upwards():
    for name, targets in graph_of(2).items():
        room, others = name.removeprefix("kedge."), {target.removeprefix("kedge.") for target in targets}
        line = len(ORDER) if room in GROUND else LINES.get(room)
        assert line is not None, f"where does {room} stand? Name it in ORDER"
        above = [other for other in others - GROUND if LINES[other] <= line]
        assert not above, f"{room} imports {', '.join(above)}, which it stands below or beside"


def test_no_circles_between_rooms():
    assert circles(2) == []


def test_no_circles_between_files():
    assert circles() == []


@pytest.mark.parametrize("room", ["training", "evaluation", "scores", "objectives", "anchoring"])
def test_names_are_looked_up_late_at_doors_only(room):
    """What is imported by a text is in no graph: a room has it in its `__init__`, and training for the page alone."""
    texts = {path: path.read_text() for path in (SOURCE / room).rglob("*.py") if path.name != "__init__.py"}
    late = {path.name for path, text in texts.items() if "import_module(" in text}
    assert late <= ({"fitting.py"} if room == "training" else set())
