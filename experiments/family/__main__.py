"""python -m experiments.family [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]"""

from experiments import runner
from experiments.family.cells import CELLS, FOLDER

if __name__ == "__main__":
    runner.main(FOLDER, CELLS)
