"""Pre-train the small base: the autoencoder, then the unconditional denoiser on its latents.

    python -m stage2.base data.roots=[PHOTOS]
    python -m stage2.base data.roots=[PHOTOS] experiment=dit4sr_small_base    # on the built-in autoencoder

The base is written to ``output/base`` in diffusers' layout (vae/, unet/ or transformer/, scheduler/). Stable Diffusion
comes pre-trained: it does not need this run. Run the same command again to go on where a broken-off run stopped.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.base.phases:train", "base", trains=True)
