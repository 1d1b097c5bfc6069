"""python -m experiments.soft_intro_style [--cell C]... [--seeds A:B] [--smoke] [--table]
[--markdown]"""

from experiments import runner
from experiments.soft_intro_style.cells import CELLS, FOLDER
from jaxvae import host

if __name__ == "__main__":
    host.keep_freed_memory()
    runner.main(FOLDER, CELLS)
