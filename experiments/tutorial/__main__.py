"""python -m experiments.tutorial [--budget SHARE] [--cell C]... [--seeds A:B] [--smoke] [--table]
[--markdown]"""

from experiments import runner
from experiments.runner import Option
from experiments.tutorial.cells import FOLDER, cells

OPTIONS = (
    Option("budget", 1.0, float, "share of the published steps; each is a protocol of its own"),
)

if __name__ == "__main__":
    runner.main(FOLDER, cells, options=OPTIONS)
