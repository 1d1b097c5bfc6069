"""python -m experiments.uva_vae [--cell C] [--seeds A:B] [--smoke]"""

from pathlib import Path

from experiments.runner import main
from experiments.uva_vae.cells import CELLS

main(Path(__file__).parent, CELLS)
