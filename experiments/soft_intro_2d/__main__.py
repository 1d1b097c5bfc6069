"""python -m experiments.soft_intro_2d [--cell C] [--seeds A:B] [--smoke]"""

from pathlib import Path

from experiments.runner import main
from experiments.soft_intro_2d.cells import CELLS

main(Path(__file__).parent, CELLS)
