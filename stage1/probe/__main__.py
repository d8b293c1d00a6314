"""What encoders have learned: ``python -m stage1.probe weights=encoder.safetensors data.roots=[PHOTOS]``."""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage1.probe.report:examine", "probe")
