"""The whole evaluation of three small CIFAR-10 models: shift, calibration, out-of-distribution, attack, abstention.

    KEDGE_DATA=path/to/packs python -m benchmarks.cifar10_full

Trains the three variants of `benchmarks.cifar10_small` (five minutes each on two cores; those found in --runs are taken
as they are), and gives them to `kedge evaluate`: nineteen corruptions at five severities, near and far
out-of-distribution sets, PGD-20 with its cross-checks and the accuracy curve. Every number is of one training: nothing
here says how another seed would do. Interrupted, it goes on where it was. The table, the page and the JSON go to
benchmarks/results/cifar10_full/, with the command that makes them again.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.cifar10_small import VARIANTS
from kedge.cli import main as kedge
from kedge.training import Recipe, fit

RESULTS = Path("benchmarks/results/cifar10_full")  # from the root of the checkout
FAR = "mnist,fashion_mnist,textures10_64,scenes2_64,traffic_signs43_64"


def main() -> int:
    """Train what is missing, evaluate everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the trained models")
    parser.add_argument("--limit", type=int, default=1000, help="images of each set; 95 conditions take long")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
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
    return kedge(
        [
            "evaluate", *models, "--data", "cifar10", "--shift", "corruptions", "--near", "cifar100", "--ood", FAR,
            "--attack", "pgd,curve", "--attack_images", "1000", "--limit", str(args.limit), "--out", str(args.out),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
