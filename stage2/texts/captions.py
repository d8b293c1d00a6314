"""Describe photographs: a text file ``captions/STEM.txt`` for each. What is there already is kept.

    python -m stage2.texts.captions data.roots=[PHOTOS] captions=FOLDER captioner=words
    python -m stage2.texts.captions data.roots=[PHOTOS] captions=FOLDER captioner=transformers:llava-hf/llava-1.5-7b-hf

PHOTOS are what is trained on, or what is to be restored: `deedsr restore PHOTOS --captions FOLDER`.
captioner: ``none``, empty texts; ``words``, the same `words` for all; ``files``, the text file beside each photograph;
``transformers:ID``, any image-text model of transformers (on `device`), asked for `prompt`. What a model says of blur
and focus is left out: it would describe the damage, not the scene.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.texts.captioners:write", "captions")
