"""What the runs of both stages share: commands, trainer and checkpoints, photographs, shards, optimizers.

The only room of the library that knows Lightning, Hydra and OmegaConf; nothing else in the library imports it.
"""
