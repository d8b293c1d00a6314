"""What both systems take ready-made from diffusers and never train: U-Net or transformer, autoencoder, scheduler."""
