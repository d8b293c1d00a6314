"""Embed texts once, so that training and sampling load no text encoder.

    python -m stage2.texts.embed captions=FOLDER texts=FOLDER base=stabilityai/stable-diffusion-3.5-medium

Of every ``captions/STEM.txt`` it writes ``texts/stems/STEM.safetensors``, and to ``texts/texts.safetensors`` the empty
text, `positive`, what every picture is told at sampling, and `negative`, what guidance leads away from. The base is a
folder in diffusers' layout or a hub id, of which the text encoders and tokenizers are read. What is there already is
kept. To restore with them, `deedsr restore --embeddings FOLDER`; they may have another length then, tokens=256.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.texts.encoders:write", "embed")
