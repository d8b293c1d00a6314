"""What it is worth to a model that it knows the degradation: other vectors, other models, dials, many pictures.

python -m stage2.evaluate.degradation model=built-in data.roots=[PHOTOS] output=FILE.json
python -m stage2.evaluate.degradation 'models={constant: FOLDER, context: FOLDER}' data.roots=[PHOTOS] output=FILE.json
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.degradation.worth:degradation", "evaluate/degradation")
