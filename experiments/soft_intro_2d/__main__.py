"""python -m experiments.soft_intro_2d [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]"""

from experiments import runner
from experiments.soft_intro_2d.cells import CELLS, FOLDER

if __name__ == "__main__":
    runner.main(FOLDER, CELLS)
