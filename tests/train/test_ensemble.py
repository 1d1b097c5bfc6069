"""Ensembles against single runs of `fit`, in every mode, with members that fail, phases, resume and
bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import models, nets, parallel, writers
from jaxvae.data import from_arrays, toy2d
from jaxvae.errors import UserError
from jaxvae.train import Phase, fit, signals
from jaxvae.train.ensemble import Ensemble, member, train_ensemble
from small import go, one_device, small, source

TX = optax.adam(1e-2)
TOY = toy2d.toy("8gaussians").draw


def tiny(**hyper):
    return models.soft_intro_vae(nets.mlp((4,), 4), nets.mlp((4,), 2), latent_dim=2, **hyper)


def plain(**hyper):
    return models.plain_vae(nets.mlp((4,), 4), nets.mlp((4,), 2), latent_dim=2, **hyper)


def train(build=plain, data=TOY, *, seeds=(0, 1), steps=9, **options):
    options = {
        "batch_size": 16,
        "log_every": 5,
        "steps_per_call": 4,
        "mesh": one_device(),
        **options,
    }
    return train_ensemble(build, TX, data, seeds=seeds, steps=steps, **options)


def alone(build, seed, name="8gaussians", steps=9, **hyper):
    data, preprocess = toy2d.generated(name)
    model = build(**hyper)
    steps = steps if hasattr(model, "objectives") else None
    return fit(
        model,
        TX,
        data,
        preprocess=preprocess,
        steps=steps,
        batch_size=16,
        seed=seed,
        mesh=one_device(),
        log_every=5,
    )


def leaves(train_state):
    return jax.tree.leaves(jax.device_get((train_state.params, train_state.opt_state)))


def assert_close(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def assert_same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


HYPER = {"beta_rec": [0.6, 0.9], "beta_kl": [0.2, 1.5]}


@pytest.fixture(scope="module")
def singles():
    """The runs of `fit` that members 1 and 2 must equal."""
    return {
        i: alone(plain, seed=1 - i // 2, **{name: v[i // 2] for name, v in HYPER.items()})
        for i in (1, 2)
    }


@pytest.mark.long
@pytest.mark.parametrize("mode", ["vmap", "map", "unroll", None])
def test_each_member_is_the_run_that_fit_makes_of_it(mode, singles):
    found = train(hyper=HYPER, members=mode)
    assert [s["seed"] for s in found.settings] == [0, 1, 0, 1]
    assert found.settings[3] == {"seed": 1, "beta_rec": 0.9, "beta_kl": 1.5}
    assert found.frozen == {}
    for i, single in singles.items():
        assert_close(member(found, i), single.train_state)
        for name in ("loss", "kl"):
            assert found.metrics[i][name] == pytest.approx(single.metrics["train"][name], rel=1e-4)


def test_a_source_gives_every_seed_the_order_that_fit_would():
    found = train(lambda **h: small(**h), source(), hyper={"beta": [0.5, 1.0]}, steps=9)
    single = go(9, model=small(beta=1.0), tx=TX, seed=1)
    assert_close(member(found, 3), single.train_state)


def test_a_model_that_starts_from_its_data_starts_where_fit_would_start_it():
    def build(**hyper):
        pair = nets.mlp((5,), 4), nets.mlp((5,), (4, 4, 1))
        return models.vamp(*pair, latent_dim=2, components=3, **hyper)

    found = train(build, source(), hyper={"beta": [1.0]}, seeds=[3], steps=2)
    single = go(2, model=build(beta=1.0), tx=TX, seed=3)
    assert_close(member(found, 0), single.train_state)


@pytest.mark.long
def test_phases_and_data_by_setting():
    def build(**hyper):
        return [Phase(plain(**hyper), 3), Phase(tiny(**hyper), 6)]

    draws = [toy2d.toy(name).draw for name in ("8gaussians", "rings")]
    found = train(
        build,
        draws,
        seeds=[5],
        steps=None,
        hyper={"data": [0, 1, 1], "beta_kl": [0.2, 0.2, 0.7]},
        members="vmap",
    )
    assert set(found.metrics[0]) >= {"encoder_loss", "decoder_loss"}
    for i, name in ((0, "8gaussians"), (2, "rings")):
        assert_close(
            member(found, i),
            alone(build, 5, name, steps=None, beta_kl=found.settings[i]["beta_kl"]).train_state,
        )


@pytest.mark.long
def test_members_are_spread_over_the_devices():
    assert jax.device_count() == 8
    single = train(seeds=range(8))
    for size in (8, 3):  # three members take three of the eight
        spread = train(seeds=range(size), mesh=parallel.make_mesh())
        assert len(jax.tree.leaves(spread.train_state.params)[0].sharding.device_set) == size
        assert_close(spread.train_state, jax.tree.map(lambda x, n=size: x[:n], single.train_state))


@pytest.mark.parametrize("mode", ["vmap", "map"])
def test_devices_share_the_batch_of_a_member(mode):
    options = {"seeds": range(2), "members": mode, "steps": 5}
    shared = train(mesh=parallel.make_mesh(), batch_devices=4, **options)
    leaf = jax.tree.leaves(shared.train_state.params)[0]
    assert len(leaf.sharding.device_set) == 8
    assert leaf.addressable_shards[0].data.shape[0] == 1  # a member, on each
    alone = train(**options)
    assert_close(shared.train_state, alone.train_state)
    for have, want in zip(shared.metrics, alone.metrics, strict=True):
        assert have == pytest.approx(want, rel=1e-5)


def test_devices_share_the_examples_of_a_member():
    options = {"hyper": {"beta": [0.5, 1.0, 2.0]}, "seeds": [1], "steps": 5}
    shared = train(
        lambda **h: small(**h), source(), mesh=parallel.make_mesh(), batch_devices=2, **options
    )
    assert len(jax.tree.leaves(shared.train_state.params)[0].sharding.device_set) == 6
    assert_close(shared.train_state, train(lambda **h: small(**h), source(), **options).train_state)


@pytest.mark.parametrize("count", [0, 3, 16])
def test_devices_that_cannot_share_a_batch(count):
    said = "must be at least 1" if count == 0 else f"{count} devices cannot share a batch"
    with pytest.raises(UserError, match=said):
        train(mesh=parallel.make_mesh(), batch_devices=count)


def explosive(scale):
    """A VAE whose loss is `scale` times too large, and not a number beyond float32."""
    model = plain(beta_kl=1.0)
    (objective,) = model.objectives

    def loss(params, state, rng, batch, step, carry):
        value, aux = objective.loss(params, state, rng, batch, step, carry)
        return value + jnp.where(step >= 6, jnp.log(-scale), 0.0), aux  # nan for a scale above zero

    return model._replace(objectives=(objective._replace(loss=loss),))


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize("mode", ["vmap", "map", "unroll"])
def test_a_member_that_fails_is_frozen_and_the_others_go_on(tmp_path, mode):
    found = train(
        explosive, seeds=[0], hyper={"scale": [-1.0, 1.0, -1.0]}, members=mode, workdir=tmp_path
    )
    assert found.frozen == {1: (6, ["loss"])}
    assert_same(member(found, 0), member(found, 2))
    assert int(member(found, 0).step) == 9
    last_good = int(member(found, 1).step)
    assert (
        last_good == {"vmap": 5, "map": 5, "unroll": 6}[mode]
    )  # the beginning of the call in which it failed
    assert_close(
        member(found, 1),
        member(train(explosive, seeds=[0], hyper={"scale": [-1.0]}, steps=last_good), 0),
    )
    lines = writers.read(tmp_path / "metrics.jsonl")
    assert [line for line in lines if line["split"] == "frozen"] == [
        {"step": 9, "split": "frozen", "member": 1, "at": 6, "not_finite": ["loss"]}
    ]
    assert [line["member"] for line in lines if line["split"] == "train" and line["step"] == 9] == [
        0,
        2,
    ]
    again = train(
        explosive, seeds=[0], hyper={"scale": [-1.0, 1.0, -1.0]}, members=mode, workdir=tmp_path
    )
    assert again.frozen == found.frozen
    assert_same(again.train_state, found.train_state)


def test_gradients_that_are_not_finite_freeze_a_member_too():
    def build(size):
        model = plain(beta_kl=1.0)
        (objective,) = model.objectives

        def loss(params, state, rng, batch, step, carry):
            value, aux = objective.loss(params, state, rng, batch, step, carry)
            w = params["decoder"]["Dense_0"]["bias"][0]
            return value + (
                w - jax.lax.stop_gradient(w)
            ) * size * size, aux  # a gradient of infinity, a value of 0

        return model._replace(objectives=(objective._replace(loss=loss),))

    found = train(build, seeds=[0], hyper={"size": [0.0, 1e30]}, steps=4)
    assert list(found.frozen) == [1]
    assert all(np.isfinite(x).all() for x in leaves(found.train_state))


@pytest.mark.long
def test_resume_gives_the_bits_of_a_run_that_never_stopped(tmp_path):
    def build(**hyper):
        return [Phase(plain(**hyper), 3), Phase(plain(beta_rec=0.5, **hyper), 8)]

    options = {"hyper": {"beta_kl": [0.2, 0.7]}, "steps": None, "save_every": 2}
    unstopped = train(build, workdir=tmp_path / "whole", **options)

    def stop(step, train_state):
        import os
        import signal

        if step in (5, 11):  # 11 is the last one
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(signals.Stopped):
            train(build, workdir=tmp_path / "cut", on_log=stop, **options)
    resumed = train(build, workdir=tmp_path / "cut", **options)
    assert_same(unstopped.train_state, resumed.train_state)
    assert resumed.metrics == unstopped.metrics
    log = [writers.read(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert [line["step"] for line in log[0]] == [3] * 4 + [5] * 4 + [10] * 4 + [11] * 4
    with pytest.raises(UserError, match="another config: members"):
        train(build, workdir=tmp_path / "cut", **{**options, "hyper": {"beta_kl": [0.2, 0.8]}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "seeds must be different whole numbers, at least one"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": [-1]}, "a seed must be at least 0"),
        ({"seeds": [0, 2**32]}, r"a seed must be below 2\*\*32"),  # it would be trained as seed 0
        (
            {"hyper": {"beta_kl": [1.0, 2.0], "beta_neg": [1.0]}},
            "one length, .*: beta_kl has 2, beta_neg has 1",
        ),
        ({"seeds": 3}, "seeds must be a list, one value for each, not 3"),
        ({"hyper": {"beta_kl": 0.5}}, "hyper-parameter beta_kl must be a list"),
        ({"hyper": {"beta_kl": []}}, "one length, .*: beta_kl has 0"),
        ({"hyper": {"beta_kl": [1.0, -2.0]}}, "beta_kl must be at least 0, not -2"),
        ({"hyper": {"beta_kl": [1.0, float("nan")]}}, "hyper-parameter beta_kl must be finite"),
        ({"members": "pmap"}, "unknown members 'pmap'. Did you mean 'map'"),
        ({"steps": None}, "give steps where build returns a model"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"hyper": {"data": [0]}}, r"hyper\['data'\] chooses from a list"),
        ({"data": [TOY]}, "say which of it each setting takes with hyper"),
        (
            {"data": [TOY], "hyper": {"data": [1]}},
            r'hyper\["data"\] is 1, but data holds 1 functions',
        ),
        ({"data": 3}, r"data must be a function \(rng, n\) -> x"),
        ({"data": lambda rng, n: jnp.zeros((n + 1, 2))}, "they must be one shape"),
        ({"preprocess": lambda rng, examples: None}, "preprocess belongs to a Source"),
        ({"data": source()._replace(arrays=None)}, "is streamed: an ensemble needs"),
        ({"build": plain()}, "build must be a function .*, not a Model"),
        (
            {"build": small, "data": from_arrays(np.full((20, 4, 4, 1), 255.0))},
            r"needs pixels in \[0, 1\]; these run from 255 to 255",
        ),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        train(**options)


def test_there_are_only_so_many_members():
    ensemble = Ensemble(jnp.arange(2), [{"seed": 0}, {"seed": 1}], [{}, {}], {})
    assert int(member(ensemble, 1)) == 1
    for i, message in ((2, "there is no member 2: the ensemble has 2, 0 to 1"), (-1, "at least 0")):
        with pytest.raises(UserError, match=message):
            member(ensemble, i)


def test_an_objective_whose_turn_has_not_come_reports_nothing(tmp_path):
    def in_turn(**hyper):
        first, second = tiny(**hyper).objectives
        independent = second._replace(
            every=3, phase=2, loss=lambda p, s, r, b, t, c: first.loss(p, s, r, b, t, None)
        )
        renamed = first._replace(every=1, loss=without_carry(first.loss))
        return tiny(**hyper)._replace(
            objectives=(renamed, independent._replace(loss=relabelled(independent.loss)))
        )

    def without_carry(loss):
        def run(*args):
            value, aux = loss(*args)
            return value, aux._replace(carry=None)

        return run

    def relabelled(loss):
        def run(*args):
            value, aux = loss(*args)
            metrics = {f"late_{name}": x for name, x in aux.metrics.items()}
            return value, aux._replace(carry=None, metrics=metrics)

        return run

    found = train(in_turn, steps=4, log_every=1, workdir=tmp_path, members="map")
    lines = [line for line in writers.read(tmp_path / "metrics.jsonl") if line["member"] == 0]
    late = ["late_kl" in line for line in lines]
    assert late == [False, False, True, False]
    assert all(np.isfinite(x) for line in lines for x in line.values() if isinstance(x, float))
    assert "late_kl" not in found.metrics[0]
