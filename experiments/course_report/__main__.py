"""python -m experiments.course_report [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]"""

from experiments import runner
from experiments.course_report.cells import CELLS, FOLDER

if __name__ == "__main__":
    runner.main(FOLDER, CELLS)
