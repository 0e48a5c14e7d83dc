"""Learning rates over a run, as `torch.optim.lr_scheduler` schedulers stepped once after each optimizer step.

In a recipe's units (epochs, shares of the run) a schedule that counts otherwise has `for_run` beside it.
"""
