"""Tries mishaps at random until the time is up, and says how many were survived."""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae import host
from jaxvae.train.checkpoint import versions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "runs" / "torture.json"


def prepare() -> None:
    """Sets what runs are told by their surroundings: the CPU, a cache of their own."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def torture(
    kinds: Sequence[Any], seed: int, seconds: float, rounds: float = float("inf")
) -> dict[str, Any]:
    """Returns the counts of each kind and what was lost.

    The kind that has had the least time has the next round, which draws from the seed, the kind's
    name and the number of its rounds before; that number also says to which run it happens.

    Args:
        kinds: of `torture.kinds.Kind`.
        seed: of all that is drawn.
        seconds: after which no round begins.
        rounds: of each kind, at most.
    """
    start, spent, done = time.perf_counter(), dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0)
    outcomes = {kind.name: collections.Counter() for kind in kinds}
    lost: list[str] = []
    while time.perf_counter() - start < seconds:
        left = [kind for kind in kinds if done[kind] < rounds]
        if not left:
            break
        kind = min(left, key=spent.__getitem__)
        begun = time.perf_counter()
        rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), done[kind]])
        with tempfile.TemporaryDirectory(prefix="torture-") as place:
            for found in tries_of(kind, rng, Path(place), *kind.run_of(done[kind])):
                outcomes[kind.name][found.outcome] += 1
                if found.lost is not None:
                    lost.append(f"{kind.name}, round {done[kind]}: {found.lost}")
                    print(lost[-1], file=sys.stderr, flush=True)
        done[kind] += 1
        spent[kind] += time.perf_counter() - begun
    return {
        "kinds": {
            kind.name: {
                "tries": outcomes[kind.name].total(),
                "survived": outcomes[kind.name].total() - outcomes[kind.name]["lost"],
                "lost": outcomes[kind.name]["lost"],
                "rounds": done[kind],
                "runs": dict(
                    collections.Counter(r for i in range(done[kind]) for r in kind.run_of(i))
                ),
                "seconds": round(spent[kind], 1),
                "outcomes": dict(sorted(outcomes[kind.name].items())),
            }
            for kind in kinds
        },
        "lost": lost,
    }


def tries_of(kind: Any, rng: np.random.Generator, place: Path, *run: str) -> Iterator[Any]:
    """Yields the tries of a round; one that cannot go on is lost."""
    from torture import kinds

    try:
        yield from kind.round(rng, place, *run)
    except Exception as error:
        yield kinds.lost(f"the round ends: {kinds.one_line(error)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the kinds that are asked for, keeps the counts, and says them in one line; returns 1
    where something was lost."""
    prepare()
    from torture import files, stops, words

    kinds = [*words.KINDS, *files.KINDS, *stops.KINDS]  # first those whose rounds are short
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m torture")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in kinds])
    parser.add_argument("--rounds", type=float, default=float("inf"), help="of each kind, at most")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    chosen = [kind for kind in kinds if args.kind is None or kind.name in args.kind]
    with tempfile.TemporaryDirectory(prefix="torture-cache-") as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        found = torture(chosen, args.seed, 60 * args.minutes, args.rounds)
    counts = [
        sum(each[name] for each in found["kinds"].values())
        for name in ("tries", "survived", "lost")
    ]
    about = {"seed": args.seed, "minutes": args.minutes, "processor": host.processor()}
    totals = dict(zip(("tries", "survived", "lost_tries"), counts, strict=True))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(
        json.dumps({**about, "versions": versions(), **totals, **found}, indent=1) + "\n"
    )
    print("tries {}, survived {}, lost {}".format(*counts))
    return 1 if counts[2] else 0


if __name__ == "__main__":
    sys.exit(main())
