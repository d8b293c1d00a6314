"""The learning curve: what models that were kept while training score, over the hours that each had taken.

python -m stage2.evaluate.curve data=PAIRS output=curve.md 'points={first: {model: FOLDER, hours: 0.5}, …}' [images=10]
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.learning:learning_curve", "evaluate/curve")
