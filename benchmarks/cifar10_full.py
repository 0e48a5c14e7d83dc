"""The whole evaluation of three small CIFAR-10 models: shift, calibration, out-of-distribution, attack, abstention.

    KEDGE_DATA=path/to/packs python -m benchmarks.cifar10_full

Trains the three variants of `benchmarks.cifar10_small` (five minutes each on two cores; those found in --runs are taken
as they are), and gives them to `kedge evaluate`: nineteen corruptions at five severities, near and far
out-of-distribution sets, PGD-20 with its cross-checks and the accuracy curve. Every number is of one training: nothing
here says how another seed would do. Interrupted, it goes on where it was. The page and the JSON, some megabytes, go to
--out; the table and what each score tells apart go to benchmarks/results/cifar10_full.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.cifar10_small import VARIANTS
from kedge.cli import main as kedge
from kedge.files import write_text
from kedge.reporting import read_results, table
from kedge.training import Recipe, fit

RESULTS = Path("benchmarks/results/cifar10_full.md")  # from the root of the checkout
FAR = "mnist,fashion_mnist,textures10_64,scenes2_64,traffic_signs43_64"


def main() -> int:
    """Train what is missing, evaluate everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the trained models")
    parser.add_argument("--limit", type=int, default=1000, help="images of each set; 95 conditions take long")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10_full"))
    args = parser.parse_args()
    for variant, changes in VARIANTS.items():
        if not (args.runs / f"{variant}-0" / "model").is_dir():
            print(f"training {variant}", file=sys.stderr)
            recipe = Recipe(
                data="cifar10", model="kedge_resnet_small", arguments={"width": 16}, epochs=args.epochs, seed=0,
                runs=str(args.runs), name=f"{variant}-0", **changes,
            )  # fmt: skip
            fit(recipe, progress=False)
    models = [str(args.runs / f"{variant}-0") for variant in VARIANTS]
    code = kedge(
        [
            "evaluate", *models, "--data", "cifar10", "--shift", "corruptions", "--near", "cifar100", "--ood", FAR,
            "--attack", "pgd,curve", "--attack_images", "1000", "--limit", str(args.limit), "--out", str(args.out),
        ]
    )  # fmt: skip
    if code == 0:
        write_text(RESULTS, summary(read_results(args.out / "results.json")))
    return code


def summary(results: dict[str, Any]) -> str:
    """What stays of the results in the repository, as Markdown: how they came about, the table, AUROCs."""
    machine = results["machine"]
    groups = {name: model["ood_groups"] for name, model in results["models"].items()}
    scores = list(dict.fromkeys(s for g in groups.values() for group in g.values() for s in group))
    head = [f"{name}, {group}" for name, g in groups.items() for group in g]
    lines = [
        "# Three small CIFAR-10 models, one seed each",
        "",
        f"`python -m benchmarks.cifar10_full`, {results['created'][:10]}: kedge {machine['kedge']}, torch "
        f"{machine['torch']}, Python {machine['python']}, {machine['system']}, {machine['cpus']} cores.",
        "",
        "```text",
        table(results).strip(),
        "```",
        "",
        "AUROC in %, means over the sets that are near and over those that are far:",
        "",
        f"| score | {' | '.join(head)} |",
        f"| --- |{' ---: |' * len(head)}",
    ]
    for score in scores:
        cells = [_percent(group.get(score)) for g in groups.values() for group in g.values()]
        lines.append(f"| `{score}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(score: dict[str, Any] | None) -> str:
    return "–" if score is None else f"{100 * score['auroc']['value']:.1f}"


if __name__ == "__main__":
    sys.exit(main())
