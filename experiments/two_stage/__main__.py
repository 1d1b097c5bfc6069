"""python -m experiments.two_stage [--protocol P] [--budget SHARE] [--cell C]... [--seeds A:B]
[--smoke] [--table] [--markdown]"""

from experiments import runner
from experiments.runner import Option
from experiments.two_stage.cells import FOLDER, cells
from jaxvae import host

OPTIONS = (
    Option(
        "protocol",
        "two-stage-released",
        str,
        "how FIDs are measured; squeezenet needs no Inception weights",
    ),
    Option("budget", 1.0, float, "share of the published schedule; each is a protocol of its own"),
)

if __name__ == "__main__":
    host.keep_freed_memory()
    runner.main(FOLDER, cells, options=OPTIONS)
