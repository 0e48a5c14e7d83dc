"""Procedures: how a model is made, in stages; `run(context) -> model`, one file each, listed by `kedge adapt`."""
