"""python -m experiments.vae [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]"""

from experiments import runner
from experiments.vae.cells import CELLS, FOLDER

if __name__ == "__main__":
    runner.main(FOLDER, CELLS)
