"""``python -m stage1.probe``: what an encoder knows of blur, noise, JPEG and content."""
