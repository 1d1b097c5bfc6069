"""python -m experiments.course_report [--budget SHARE] [--cell C]... [--seeds A:B] [--smoke] [--table]
[--markdown]"""

from experiments import runner
from experiments.course_report.cells import FOLDER, cells
from experiments.runner import Option

OPTIONS = (
    Option(
        "budget", 1.0, float, "share of the epochs of GAN and flow; each is a protocol of its own"
    ),
)

if __name__ == "__main__":
    runner.main(FOLDER, cells, options=OPTIONS)
