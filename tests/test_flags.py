"""The flags: defined once, each with its words."""

from __future__ import annotations

from pathlib import Path

from mlpsf.flags import NEVER_A_PSF_STAR, Flag, describe


def test_every_flag_is_one_bit_with_words():
    values = [int(f) for f in Flag]
    assert len(set(values)) == len(values)
    assert all(v & (v - 1) == 0 for v in values)
    assert max(values) < 2**31
    assert all(f.short and f.meaning for f in Flag)
    assert len({f.short for f in Flag}) == len(values)


def test_describe():
    assert describe(0) == ""
    assert describe(int(Flag.FAINT)) == "faint"
    everything = sum(int(f) for f in Flag)
    assert describe(everything).split("; ") == [f.short for f in Flag]


def test_the_fate_of_a_chosen_star_is_no_veto():
    for flag in (Flag.RESERVED, Flag.RELAXED, Flag.BELOW_THRESHOLD, Flag.BEYOND_N_MAX):
        assert not flag & NEVER_A_PSF_STAR
    for flag in (Flag.SATURATED, Flag.NEAR_EDGE, Flag.MASKED, Flag.FAINT, Flag.VETOED):
        assert flag & NEVER_A_PSF_STAR


def test_the_manual_explains_every_reason():
    manual = (Path(__file__).parents[1] / "mlpsf" / "GUIDE.md").read_text(encoding="utf-8")
    table = manual.split("| reason | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {flag.short} | {flag.meaning} |" for flag in Flag]
