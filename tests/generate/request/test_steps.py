"""When the identity is seen and how strongly; at which steps layers are skipped."""

from __future__ import annotations

import pytest

from pulid_generate.errors import RequestError
from pulid_generate.request import generation as request
from pulid_generate.request.people.id_schedule import (
    MAX_WEIGHT,
    IdSchedule,
    format_points,
    parse_moment,
    parse_points,
    step_of,
)
from pulid_generate.request.skip_guidance import SkipGuidance, parse_layers


@pytest.mark.parametrize(
    ("text", "moment"),
    [("0", 0), ("4", 4), ("0.2", 0.2), ("0.0", 0.0), ("1.0", 1.0), ("1", 1), ("2e-1", 0.2)],
)
def test_moments_are_steps_or_shares(text, moment):
    ours = parse_moment(text, "id-start-step")
    assert (ours, type(ours)) == (moment, type(moment))


@pytest.mark.parametrize("text", ["", "-1", "1.5", "nan", "inf", "0x2", "four", "²"])
def test_other_moments_are_refused(text):
    with pytest.raises(RequestError, match="id-end-step"):
        parse_moment(text, "id-end-step")


@pytest.mark.parametrize(
    ("moment", "steps", "step"),
    [
        (4, 20, 4),
        (0.2, 20, 4),
        (0.2, 4, 1),
        (0.25, 4, 1),
        (0.26, 4, 2),
        (0.1, 30, 3),
        (0.7, 10, 7),
        (0.0, 9, 0),
        (1.0, 9, 9),
    ],
)
def test_a_share_is_the_first_step_at_or_after_it(moment, steps, step):
    assert step_of(moment, steps) == step


def weights(schedule, steps):
    schedule.check(steps)
    return [schedule.weight_at(step, steps)[0] for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (IdSchedule(), 3, [1, 1, 1]),
        (IdSchedule(start=1), 4, [0, 1, 1, 1]),
        (IdSchedule(start=0.5), 4, [0, 0, 1, 1]),
        (IdSchedule(end=2), 4, [1, 1, 0, 0]),
        (IdSchedule(start=0.25, end=0.75), 4, [0, 1, 1, 0]),
        (IdSchedule(end=1.0), 2, [1, 1]),
        (IdSchedule(points=((0, 0.0), (1, 1.0), (3, 0.6))), 5, [0, 1, 1, 0.6, 0.6]),
        (IdSchedule(points=((0, 0.5), (0.5, 1.0))), 4, [0.5, 0.5, 1, 1]),
        (IdSchedule(start=1, end=3, points=((0, 2.0), (2, 3.0)), double=0.5), 4, [0, 1, 1.5, 0]),
    ],
)
def test_weights_step_by_step(schedule, steps, expected):
    assert weights(schedule, steps) == pytest.approx(expected)
    active = [schedule.active(step, steps) for step in range(steps)]
    assert all(active) or schedule.start != 0 or schedule.end is not None


def test_windows_that_meet_share_no_step():
    for steps in (1, 3, 4, 7, 20, 28):
        before, after = IdSchedule(end=0.4), IdSchedule(start=0.4)
        assert all(before.active(step, steps) != after.active(step, steps) for step in range(steps))


def test_double_and_single_blocks_have_their_own_factor():
    assert IdSchedule(double=0.5, single=2, points=((0, 3.0),)).weight_at(0, 1) == (1.5, 6)
    assert IdSchedule(start=1, double=0.5).weight_at(0, 2) == (0, 0)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            IdSchedule(start=4),
            "id-start-step 4: there are only 4 steps; the identity would never be used",
        ),
        (IdSchedule(start=1.0), "id-start-step 1.0"),
        (IdSchedule(start=2, end=2), "no step of 4 lies between them"),
        (IdSchedule(start=0.3, end=0.5), "no step of 4"),
        (IdSchedule(end=0), "no step of 4"),
        (IdSchedule(end=5), "id-end-step 5: there are only 4 steps"),
        (
            IdSchedule(points=((0, 0.0), (4, 1.0))),
            "id-weight-schedule 0:0,4:1: there are only 4 steps, from 0; 4 is never reached",
        ),
        (
            IdSchedule(points=((0, 0.0), (2, 1.0), (1, 2.0))),
            "2 is step 2 and 1 is step 1 of 4; each must come after",
        ),
        (
            IdSchedule(points=((0, 0.0), (0.3, 1.0), (0.4, 2.0))),
            "0.3 is step 2 and 0.4 is step 2 of 4",
        ),
    ],
)
def test_what_would_silently_do_nothing_is_refused(schedule, message):
    with pytest.raises(RequestError, match=message):
        schedule.check(4)
    with pytest.raises(RequestError, match="identity me: "):
        schedule.check(4, "identity me")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "id-start-step -1"),
        ({"end": 1.5}, "id-end-step 1.5"),
        ({"double": float("nan")}, "id-weight-double: nan is not a weight"),
        ({"single": 1e9}, "id-weight-single"),
        (
            {"points": ((4, 1.0),)},
            "id-weight-schedule 4:1: says nothing about the first steps; begin with step 0",
        ),
        ({"points": ()}, r"id-weight-schedule \(none\)"),
        ({"points": ((0, float("nan")),)}, "nan is not a weight"),
    ],
)
def test_impossible_schedules_are_refused_at_once(options, message):
    with pytest.raises(RequestError, match=message):
        IdSchedule(**options)


def test_points_read_as_written():
    points = parse_points("0:0,4:1,0.8:0.6,1.0:-2")
    assert points == ((0, 0.0), (4, 1.0), (0.8, 0.6), (1.0, -2.0))
    assert [type(moment) for moment, _ in points] == [int, int, float, float]
    assert parse_points(format_points(points)) == points


@pytest.mark.parametrize(
    "text", ["", "1", "0:1,", "0:1;4:2", "0:one", "0:1:2", "a:1", "-1:1", "0=1"]
)
def test_other_points_are_refused(text):
    with pytest.raises(RequestError, match="id-weight-schedule"):
        parse_points(text)


def test_the_largest_weight_is_the_requests():
    assert MAX_WEIGHT == request.MAX_STRENGTH


# ------------------------------------------------------------------------------ skip-layer guidance


@pytest.mark.parametrize(
    ("options", "steps", "active"),
    [
        ({}, 20, [0, 1, 2]),  # sd-cli's defaults: sigmas 21, 0.01 -> 0, 0.2 -> 4; its steps 1, 2, 3
        ({"end": 0.4}, 4, [0]),
        ({"start": 0.0, "end": 1.0}, 4, [0, 1, 2, 3]),  # of 5 sigmas: its steps 1 to 4
        ({"start": 0.5, "end": 1.0}, 8, [4, 5, 6, 7]),
        # 0.29 * 100 is 29 in single precision, 28.999 in double
        ({"start": 0.0, "end": 0.29}, 99, list(range(28))),
    ],
)
def test_guided_steps_are_sd_clis(options, steps, active):
    guidance = SkipGuidance(scale=2.5, **options)
    guidance.check(steps)
    assert [step for step in range(steps) if guidance.active(step, steps)] == active
    off = SkipGuidance(scale=0, **options)
    off.check(steps)
    assert not any(off.active(step, steps) for step in range(steps))


def test_a_guidance_without_a_step_is_refused():
    with pytest.raises(RequestError, match="no step of 4 lies between them"):
        SkipGuidance(scale=1).check(4)  # sd-cli's own defaults do nothing on schnell, silently
    for options in ({"scale": float("nan")}, {"start": -0.1}, {"end": 2.0}):
        with pytest.raises(RequestError, match=r"slg-scale|skip-layer"):
            SkipGuidance(**options)


@pytest.mark.parametrize(
    ("text", "layers"), [("[7,8,9]", (7, 8, 9)), ("7, 8", (7, 8)), ("[]", ()), (" [ 3 ] ", (3,))]
)
def test_layers_read_as_sd_cli_writes_them(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["seven", "[7,,8]", "[7", "-1", "1.5"])
def test_other_layers_are_refused(text):
    with pytest.raises(RequestError, match="skip-layers"):
        parse_layers(text)
