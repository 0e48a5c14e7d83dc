"""Several networks that are to differ: what their answers have in common beyond the label costs something."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.members import Members, members_of
from kedge.objectives._base import Objective, check_targets, check_weight, soft_targets
from kedge.objectives._recording import recording
from kedge.objectives._views import bare, without_labels

info = Info(
    "Learning Diverse Representations for Fast Adaptation to Distribution Shift", "Pace, Russo and Shanahan", "arXiv",
    2020, "https://arxiv.org/abs/2006.07119", "abstract",
)  # fmt: skip
LARGEST = 256  # classes: the exact form holds C³ numbers


class ConditionalTC(Objective):
    """Σ_m CE(z_m, y) + λ TC(q_1, ..., q_M | y), z_m `[B, C]` the logits of network m of M, q_m = softmax(z_m).

    TC, the conditional total correlation, is 0 or more: E_y KL(p(c_1, ..., c_M | y) ‖ Π_m p(c_m | y)) in nats, p(. | y)
    the mean of the networks' answers over the images of a class in the batch. Of more than two networks it is the sum
    over pairs. Networks that err on the same images for the same reason have much of it; on its own each may be what
    cross-entropy makes of it. It needs a network of several, `--model kedge_members --arguments '{members: 2}'`, which
    answers with the mean of their logits, and of which `kedge adapt RUN --how linear-probe --shots 2` fits a new head
    on the features of all: the fast adaptation that the paper is about.

    Our reading: exact, of the networks' answers, where the paper estimates the TC of their features by a critic. A
    class with one image in the batch has none; of few images and sure answers it is overestimated, so large batches are
    better. With λ 0 the networks are trained independently but for the bias of the last layer, which they share. Images
    without a label (masking) count in the cross-entropy alone.

    Args:
        weight: λ, 0 or more.

    Raises:
        ValueError: for a weight out of range; when training starts, for a model that is one network, or of more than
            256 classes; when called, for targets that do not fit.

    Source: Pace, Russo and Shanahan, "Learning Diverse Representations for Fast Adaptation to Distribution Shift",
        arXiv 2006.07119 (abstract).
    """

    reads_layers = True
    in_repr = ("weight",)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_weight("weight", weight)
        self.weight = weight

    def prepare(self, model: nn.Module) -> None:
        """See that the model is made of several networks."""
        _, members = members_of(bare(model))
        if self.weight and members.num_classes > LARGEST:
            raise ValueError(
                f"ConditionalTC compares all pairs of answers within each class, C³ numbers: {LARGEST} classes are the "
                f"most, and the model has {members.num_classes}"
            )

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses and the price; `logged["conditional_tc"]` is the latter without λ."""
        layer, members = members_of(bare(model))
        with recording(model, [layer]) as outputs:
            mean = model(images)
        targets = check_targets(targets, mean)
        logits = apart(members, outputs[layer])
        loss = torch.stack([F.cross_entropy(each, targets) for each in logits.unbind(1)]).sum()
        if self.weight == 0:
            return loss
        classes = soft_targets(targets, logits.shape[2]).to(logits.dtype)
        if (unlabelled := without_labels(model)) is not None:
            classes = classes.masked_fill(unlabelled[:, None], 0)
        shared = conditional_tc(logits.softmax(2), classes)
        self.logged["conditional_tc"] = shared.detach()
        return loss + self.weight * shared


def apart(members: Members, features: Tensor) -> Tensor:
    """Logits of every network `[B, M, C]`, in float32 or wider."""
    logits = members.apart(features)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def conditional_tc(answers: Tensor, classes: Tensor) -> Tensor:
    """E_y KL(p(c_1, c_2 | y) ‖ p(c_1 | y) p(c_2 | y)) in nats, summed over pairs of networks.

    Args:
        answers: probabilities `[B, M, C]` of M networks.
        classes: `[B, C]`, the classes of the images, 0 for one that has none.
    """
    counts = classes.sum(0)
    own = classes / counts.clamp(min=torch.finfo(classes.dtype).tiny)  # the weight of an image in its class
    exact = torch.autocast(answers.device.type, enabled=False)  # in bfloat16 what is left of the ratios is rounding
    with exact:
        alone = torch.einsum("by,bmc->myc", own, answers)
    total = answers.new_zeros(())
    for i, j in torch.combinations(torch.arange(answers.shape[1])).tolist():
        with exact:
            joint = torch.einsum("by,bc,bd->ycd", own, answers[:, i], answers[:, j])
        product = alone[i, :, :, None] * alone[j, :, None, :]
        tiny = torch.finfo(joint.dtype).tiny
        ratio = (joint.clamp(min=tiny) / product.clamp(min=tiny)).log()
        total = total + (counts / counts.sum().clamp(min=1) * (joint * ratio).sum((1, 2))).sum()
    return total
