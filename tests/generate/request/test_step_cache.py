"""What --cache-mode and its companions ask for."""

from __future__ import annotations

import pytest

from pulid_generate.errors import CheckpointError, RequestError
from pulid_generate.request.step_cache import StepCache, idle_options


def test_defaults_are_sd_clis():
    assert StepCache.parse("easycache").facts() == {
        "mode": "easycache",
        "threshold": 0.2,
        "start": 0.15,
        "end": 0.95,
    }
    facts = StepCache.parse("dbcache").facts()
    assert [facts[name] for name in ("Fn", "Bn", "threshold", "warmup", "max")] == [
        8,
        0,
        0.08,
        8,
        -1,
    ]
    assert StepCache.parse("cache-dit").facts()["order"] == 1


def test_options_are_read_as_sd_cli_reads_them():
    asked = StepCache.parse("dbcache", " fn=2, Bn=1,threshold=0.25 ,warmup=4", "1, 1,0", "static")
    assert (asked.first_blocks, asked.last_blocks, asked.threshold, asked.warmup) == (2, 1, 0.25, 4)
    assert asked.mask == (1, 1, 0)
    assert asked.facts()["mask"] == "110"
    assert asked.facts()["policy"] == "static"


def test_what_a_mask_decides_is_neither_said_nor_recorded_otherwise():
    option = "warmup=4,threshold=0.2,max=3"
    dynamic = StepCache.parse("dbcache", option, "1,0")
    assert "warmup" not in dynamic.facts()
    assert dynamic.facts()["threshold"] == 0.2
    static = StepCache.parse("dbcache", option, "1,0", "static").facts()
    assert static.keys() == {"mode", "Fn", "Bn", "mask", "policy"}
    told = idle_options("dbcache", option, "1,0", "static")
    assert [line.split()[1] for line in told] == ["warmup", "threshold", "max"]
    assert idle_options("dbcache", option, "", "dynamic") == []
    assert idle_options("taylorseer", "interval=2", "1,0", "dynamic") == [
        "--cache-option interval has no effect: --scm-mask says which steps are computed"
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("ucache",), "ucache: is for UNets"),
        (("deepcache",), "deepcache: is for UNets"),
        (("spectrum",), "spectrum: forecasts"),
        (("fast",), "'fast': expected easycache, dbcache"),
        (("easycache", "Fn=3"), "'Fn=3': expected KEY=VALUE with threshold, start, end"),
        (("dbcache", "warmup"), "'warmup': expected KEY=VALUE"),
        (("dbcache", "Fn=two"), "'two' is not a number"),
        (("dbcache", "Fn=1.5"), "'1.5' is not a number"),
        (("dbcache", "threshold=nan"), "not a number"),
        (("dbcache", "Fn=0"), "Fn=0: expected at least 1"),
        (("dbcache", "threshold=0"), "expected more than 0"),
        (("easycache", "start=0.9,end=0.2"), "0 <= start < end <= 1"),
        (("taylorseer", "interval=1"), "every step would be computed"),
        (("cache-dit", "order=9"), "expected 0 to 4"),
        (("dbcache", "", "1,2"), "expected 1 .compute. or 0"),
        (("dbcache", "", "1,0", "lazy"), "scm-policy 'lazy': expected dynamic or static"),
    ],
)
def test_what_cannot_be_done_is_one_line(texts, message):
    with pytest.raises(RequestError, match=message):
        StepCache.parse(*texts)


def test_what_does_not_fit_the_steps_or_the_model_is_refused():
    with pytest.raises(RequestError, match="has 2 numbers for 3 steps"):
        StepCache.parse("dbcache", "", "1,0").check_steps(3)
    with pytest.raises(CheckpointError, match="flux has 10 blocks, so none would be left"):
        StepCache.parse("dbcache", "Fn=8,Bn=2").check_blocks(10, "flux")
    StepCache.parse("easycache").check_blocks(1, "flux")
