"""The one table of all benchmarks."""

import json

import pytest

from benchmarks import measure, overview

CHIP = {"device": "A chip", "cores": 2, "platform": "cpu"}


def steady(value):
    return {"median": value, "min": value, "max": value}


def keep(folder, name, rates, ratios=(), **more):
    page = {
        "benchmark": name,
        "unit": "images/s",
        "batch_size": 7,
        **CHIP,
        "rates": {
            key: rate if isinstance(rate, dict) else steady(rate) for key, rate in rates.items()
        },
        "speed_ratio": dict.fromkeys(ratios, 9.9),
        **more,
    }
    (folder / f"{name}.{page['platform']}.json").write_text(json.dumps(page))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    return tmp_path


def rows_of(name):
    """Returns the rows of a benchmark, without its name."""
    return [
        line.split(" | ", 1)[1]
        for line in overview.table().splitlines()
        if line.startswith(f"| {name} | ")
    ]


def test_the_table_has_what_was_measured_by_turns(results):
    steps = {"step": 300.0, "pytorch_eager": 150.0, "pytorch_compiled": 200.0}
    keep(results, "infogan", steps, ["pytorch_eager", "pytorch_compiled"], alone={})
    plane = {"one": 5.0, "pytorch_eager": 2.0, "2/map": 4.0, "16/map": 10.0}
    keep(results, "ensemble", plane, ["pytorch_eager"], alone={})
    nets = {"extract/squeezenet/jaxvae": 30.0, "extract/squeezenet/torch": 40.0}
    keep(results, "fid", nets, ["squeezenet"], alone={}, batch_size={"squeezenet": 3})
    small = {"step": 8.0, "pytorch_eager": 8.0}
    keep(results, "soft_intro", small, ["pytorch_eager"], alone={}, shrink=4)
    keep(results, "step_time", {"step": 1.0, "pytorch_eager": 1.0}, ["pytorch_eager"])
    head, _, *rows, _, last = overview.table().splitlines()
    assert head.count("|") == 9
    names = ("infogan", "soft_intro", "ensemble", "fid")
    tails = [" | ".join(row.split(" | ")[2:-1]) for row in rows if row.split(" | ")[0][2:] in names]
    assert tails == [
        "300 | PyTorch, eager | 150 | 2.00 | images/s",
        "300 | PyTorch, compiled | 200 | 1.50 | images/s",
        "8.0 | PyTorch, eager | 8.0 | 1.00 | images/s",
        "5.0 | PyTorch, eager | 2.0 | 2.50 | images/s",
        "10.0 | one after the other | 5.0 | 2.00 | images/s",
        "30.0 | PyTorch, eager | 40.0 | 0.75 | images/s",
    ]
    assert "residual nets / 4, batch 7" in rows_of("soft_intro")[0]
    assert "16 members by `map`" in rows_of("ensemble")[1]
    assert rows_of("fid")[0].startswith("features of squeezenet, batch 3 |")
    assert rows_of("step_time") == ["To be measured again: see below. |  |  |  |  |  |  |"]
    again = "In one process with PyTorch, and to be measured again: step_time on A chip, 2 cores."
    assert last == f"{overview.LEGEND} {again}"


def test_every_benchmark_has_a_row_with_or_without_results(results):
    _, _, *rows, _, last = overview.table().splitlines()
    assert rows == [f"| {name} | Not run yet. |  |  |  |  |  |  |" for name in overview.BENCHMARKS]
    assert last == overview.LEGEND


def test_what_has_no_pytorch_beside_it_is_there_too(results):
    routes = {"read/png_64": 64.0, "read/jpg_64": 32.0, "iw/draws": 9.0}
    keep(results, "input", {**routes, "fit/resident": 80.0, "fit/streamed": 60.0})
    pair = {"side_by_side": 6.0, "one_after_the_other": 4.0}
    keep(results, "side_by_side", pair, unit="steps/s", cells=["rings/vae", "rings/vae"])
    forms = {f"vae/{count}/{form}": 100.0 / count for count in (1, 4) for form in ("jit", "pmap")}
    keep(results, "scaling", forms, devices_used=[1, 4], batch_sizes={"vae": 8})
    seconds = {"vae": {"first": steady(9.0), "second": steady(3.0)}}
    keep(results, "start", {}, unit="s", seconds=seconds, bare=steady(1.0))
    end = " | A chip, 2 cores |"
    assert rows_of("input") == [
        f"reading PNG files of 64x64 | 64.0 |  |  |  | images/s{end}",
        f"reading JPEG files of 64x64 | 32.0 |  |  |  | images/s{end}",
        f"`fit`, data streamed | 60.0 | data resident | 80.0 | 0.75 | images/s{end}",
        f"IW-NLL | 9.0 |  |  |  | draws/s{end}",
    ]
    both = "6.0 | one after the other | 4.0 | 1.50"
    assert rows_of("side_by_side") == [
        f"two trainings (rings/vae) side by side | {both} | steps/s{end}"
    ]
    assert rows_of("scaling")[1] == (
        f"vae, batch 8, pmap over 4 simulated devices | 25.0 | jit on one | 100 | 0.25 | images/s{end}"
    )
    of = "second start of `train vae --data fake_mnist`"  # fewer seconds are faster
    assert rows_of("start") == [f"{of} | 3.0 | first start | 9.0 | 3.00 | s{end}"]


@pytest.mark.parametrize(("platform", "chosen"), [("cpu", "scan"), ("gpu", "doubling")])
def test_the_sampler_that_is_used_stands_beside_the_fastest_of_the_others(
    platform, chosen, results
):
    ways = {"scan": 500.0, "doubling": 300.0, "matrix": 400.0}
    page = {
        "platform": platform,
        "unit": "examples/s",
        "step": {"10": {"normal": steady(200.0), "ar1": steady(100.0)}},
        "samplers": {"10": {name: steady(rate) for name, rate in ways.items()}},
    }
    keep(results, "ar1", {}, **page)
    step, draws = rows_of("ar1")
    assert "D = 10 | 100 | Normal posterior | 200 | 0.50 | examples/s" in step
    best = {"scan": "500 | `matrix` | 400 | 1.25", "doubling": "300 | `scan` | 500 | 0.60"}
    assert f"by `{chosen}`, D = 10 | {best[chosen]} | draws/s" in draws


def test_statistics_and_distances_are_rows_of_their_features(results):
    nets = {"extract/inception/jaxvae": 3.0, "extract/inception/torch": 2.0}
    statistics = {"inception": {"images": 1024, "images_per_s": 7.5}}
    distances = {"frechet_distance_seconds": {"512": 0.155}}
    size = {"batch_size": {"inception": 16}}
    keep(results, "fid", nets, alone={}, statistics=statistics, **size, **distances)
    assert [" | ".join(row.split(" | ")[:5]) for row in rows_of("fid")] == [
        "features of inception, batch 16 | 3.0 | PyTorch, eager | 2.0 | 1.50",
        "statistics of 1,024 images by inception, with compilation | 7.5 |  |  | ",
        "Fréchet distance, 512 dimensions | 0.155 |  |  | ",
    ]


def test_what_a_contest_would_not_keep_has_a_note(results):
    up_and_down = {"median": 100.0, "min": 80.0, "max": 120.0}
    steps = {"step": 100.0, "fit": up_and_down, "pytorch_compiled": 200.0}
    alone = {"step": 100.0, "fit": 100.0, "pytorch_compiled": 159.0}
    keep(results, "step_time", steps, ["pytorch_compiled"], alone=alone)
    seconds = {"vae": {"first": up_and_down, "second": steady(50.0)}}
    keep(results, "start", {}, unit="s", seconds=seconds, bare=steady(1.0))
    against, in_fit = rows_of("step_time")
    assert "| 100 | PyTorch, compiled | 200 [1] | 0.50 |" in against
    assert "| 100 [2] | bare step | 100 | 1.00 |" in in_fit
    assert "| 50.0 | first start | 100 [3] | 2.00 |" in rows_of("start")[0]
    assert overview.table().splitlines()[-5:] == [
        "To be measured again on a quiet machine:",
        "",
        "1. pytorch_compiled reached 200 beside the others and 159 alone, so its solo rate was "
        "disturbed",
        "2. the rates of fit go from 80 to 120",
        "3. the seconds of vae, first go from 80 to 120",
    ]
    alone["pytorch_compiled"] = 160.0
    keep(results, "step_time", steps, ["pytorch_compiled"], alone=alone)
    assert "| PyTorch, compiled | 200 | 0.50 |" in rows_of("step_time")[0]
