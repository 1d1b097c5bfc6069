"""python -m experiments.rho_vae [--cell C] [--seeds A:B] [--smoke]"""

from pathlib import Path

from experiments.rho_vae.cells import CELLS
from experiments.runner import main

main(Path(__file__).parent, CELLS)
