"""The learning-rate schedule."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(optimizer: Optimizer, num_epochs: int) -> LambdaLR:
    """Lower the optimizer's learning rate along a cosine, to near 0 in the last epoch.

    Loshchilov and Hutter, "SGDR", 2017 (https://arxiv.org/abs/1608.03983), without restarts. Not
    torch's CosineAnnealingLR, whose recursion adds up rounding errors.
    """
    return LambdaLR(optimizer, lambda done: (1 + math.cos(math.pi * done / num_epochs)) / 2)
