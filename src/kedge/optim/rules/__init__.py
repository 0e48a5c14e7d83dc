"""Rules by which a step moves the weights: `torch.optim` optimizers, and wrappers round one."""
