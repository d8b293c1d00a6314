"""Steps against quality: one table, one figure, and the fewest steps that are as good as any.

python -m stage2.evaluate.steps data=PAIRS output=steps.md [model=NAME] [images=10] [start=0.5]
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.step_counts:steps_against_quality", "evaluate/steps")
