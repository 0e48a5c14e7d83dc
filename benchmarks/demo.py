"""How long `kedge demo` takes to start, to answer and to draw a map; and whether covering what the map names matters.

    KEDGE_DATA=path/to/packs python -m benchmarks.demo --weights tf_efficientnet_lite0.safetensors

Times: the command is started as a user starts it, the cases one after another in each round; from its start to the
address on standard output, then one photo after another over HTTP; beside them the seconds of the processor, which
hardly depend on what else the machine does (Linux). Weights are random but for those of `--weights`: times do not
depend on them. Maps: of EfficientNet-Lite0 on ImageNet photos, the quarter of the pixels with
the largest values of a map is covered with the mean colour, and by how much the log odds of the label fall is compared
with covering the quarter with the least values, random quarters of the same squares, and what integrated gradients
name. What is not named (data, weights) is left out.
"""

import argparse
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import kedge
from kedge import data, networks
from kedge.clock import now
from kedge.demo.saliency import occlusion
from kedge.evaluation.provenance import machine
from kedge.files import write_text

RESULTS = Path(__file__).parent / "results"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ANSWERS = 5
SHARE = 0.25  # of the pixels that are covered
GRID = 8  # squares along a side that random quarters are drawn from


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line each, and write demo.json."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="file of tf_efficientnet_lite0; left out: the other network alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=40, help="that are covered; 0: none, and times alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo.json")
    args = parser.parse_args(arguments)
    if args.weights is not None and not args.weights.is_file():
        parser.error(f"--weights {args.weights} is no file")
    torch.set_num_threads(1)
    cases = models(args.weights)
    times: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in cases.items():
            kedge.save(model, Path(folder) / name)
        for _ in range(args.rounds):
            for name in cases:
                times[name].append(timed(Path(folder) / name))
                print(name, json.dumps(times[name][-1]), flush=True)
    maps = None
    if args.photos and "efficientnet_lite0" in cases and os.environ.get("KEDGE_DATA"):
        maps = covered(cases["efficientnet_lite0"], args.photos)
        print(json.dumps(maps, indent=1), flush=True)
    record = {
        "name": "demo",
        "command": "python -m benchmarks.demo"
        + (f" --weights {args.weights.name}" if args.weights else "")
        + f" --rounds {args.rounds} --photos {args.photos}",
        "created": now(),
        "machine": machine(),
        "load": os.getloadavg(),
        "times": times,
        "log_odds_lost": maps,
    }
    write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def models(weights: Path | None) -> dict[str, Any]:
    """An anchored network of ten references, and the published one if its weights are named."""
    torch.manual_seed(0)
    small = kedge.anchor(networks.create("kedge_resnet_small", 6, 3, 96), example=(3, 96, 96), **IMAGENET)
    small.references = torch.rand(10, 3, 96, 96)
    cases = {"anchored_96px": small.eval()}
    if weights is not None:
        network = networks.create("tf_efficientnet_lite0", 1000)
        network.load_state_dict(load_file(weights))
        cases["efficientnet_lite0"] = kedge.plain(network, example=(3, 224, 224), **IMAGENET).eval()
    return cases


def timed(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of one start, of some answers and of two maps; and those of the processor."""
    file = io.BytesIO()
    pixels = torch.randint(0, 256, (3000, 4000, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).resize((2000, 1500)).save(file, "JPEG", quality=90)
    command = [sys.executable, "-m", "kedge", "demo", str(folder), "--port", "0", "--device", "cpu"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        assert program.stdout is not None
        address = urlsplit(program.stdout.readline().strip()).netloc
        times = {"start": time.perf_counter() - start}
        spent = {"start": processor(program.pid)}
        asked = {"first_answer": "/answer", **{f"answer_{i}": "/answer" for i in range(ANSWERS)}}
        for name, path in {**asked, "first_map": "/map", "map": "/map"}.items():
            before = processor(program.pid)
            times[name] = posted(address, path, file.getvalue())
            spent[name] = processor(program.pid) - before
        for each in (times, spent):
            each["answer"] = statistics.median(each.pop(f"answer_{i}") for i in range(ANSWERS))
        program.terminate()
    return {"seconds": times, "of_the_processor": spent}


def processor(process: int) -> float:
    """Seconds of the processor that a process has used, all its threads together."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def posted(address: str, path: str, photo: bytes) -> float:
    """Seconds until the answer to a photo is there."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("POST", path, photo, {"Content-Type": "application/octet-stream"})
    reply = connection.getresponse()
    reply.read()
    assert reply.status == 200, reply.status
    return time.perf_counter() - start


def covered(model: Any, count: int) -> dict[str, Any]:
    """By how much the log odds fall where a quarter of the photo is covered, by what chose the quarter."""
    from captum.attr import IntegratedGradients

    images = data.load("imagenet_sample256", "test", 224)
    step = len(images) // count
    lost: dict[str, list[float]] = {}
    gradients = IntegratedGradients(model)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        image = images[i * step][0].float() / 255
        with torch.no_grad():
            label = int(model(image[None]).argmax())
        colour = model.mean.reshape(-1, 1, 1).expand_as(image)
        each = occlusion(model, image, label)
        path = gradients.attribute(image[None], colour[None], target=label, n_steps=16, internal_batch_size=8)
        smooth = torch.nn.functional.avg_pool2d(path.detach().sum(1, keepdim=True), 28, 28)
        rough = torch.nn.functional.interpolate(smooth, size=224)[0, 0]
        noise = torch.rand(1, 1, GRID, GRID, generator=generator)
        chosen: dict[str, Callable[[], Tensor]] = {
            "largest of the map": lambda each=each: each,
            "least of the map": lambda each=each: -each,
            "at random": lambda noise=noise: torch.nn.functional.interpolate(noise, size=224)[0, 0],
            "largest of integrated gradients, in squares": lambda rough=rough: rough,
        }
        for name, values in chosen.items():
            places = top(values())
            odds = [log_odds(model, one, label) for one in (image, torch.where(places, colour, image))]
            lost.setdefault(name, []).append(odds[0] - odds[1])
    return {
        name: {
            "mean": statistics.mean(values),
            "standard_error": statistics.stdev(values) / len(values) ** 0.5,
            "photos": len(values),
        }
        for name, values in lost.items()
    }


def top(values: Tensor) -> Tensor:
    """`[H, W]` bool: the quarter with the largest values, of equals the first."""
    order = values.flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[order[: round(SHARE * values.numel())]] = True
    return chosen.reshape(values.shape)


def log_odds(model: Any, image: Tensor, label: int) -> float:
    """Of one class."""
    logits = model.predict(image[None], check=False).logits[0].double()
    others = torch.arange(len(logits)) != label
    return float(logits[label] - logits[others].logsumexp(0))


if __name__ == "__main__":
    main()
