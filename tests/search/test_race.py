"""Successive halving, trial after trial: which go on from a share of the samples."""

from __future__ import annotations

import math

import pytest

from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.recipe.schema import Pruning
from lines_pipeline.search.race import Race


def test_the_best_of_those_before_go_on_as_worked_out_by_hand() -> None:
    race = Race(Pruning(keep=0.5), 0, maximizes=True)
    # of 1: best 1; of 2: best 1; of 3: best 1; of 4 and 5: best 2; of 6: best 3
    objectives = [5.0, 4.0, 6.0, 5.5, 5.0, 5.4]
    assert [race.goes_on(0.125, one) for one in objectives] == [True, False, True, True, False, True]


def test_each_share_has_a_race_of_its_own() -> None:
    race = Race(Pruning(keep=0.5), 0, maximizes=True)
    assert race.goes_on(0.125, 9.0) and not race.goes_on(0.125, 1.0) and race.goes_on(0.5, 1.0)


@pytest.mark.parametrize("maximizes", [True, False])
def test_equals_of_the_best_go_on_and_what_is_no_number_does_not(maximizes: bool) -> None:
    race = Race(Pruning(keep=0.25), 0, maximizes=maximizes)
    sign = 1 if maximizes else -1
    assert race.goes_on(0.5, math.nan)  # the first one always does
    assert race.goes_on(0.5, sign * 1.0) and race.goes_on(0.5, sign * 1.0)
    assert not race.goes_on(0.5, math.nan) and not race.goes_on(0.5, sign * 0.5)


def test_all_samples_come_last_and_nothing_goes_on_from_them() -> None:
    race = Race(Pruning(shares=(0.25, 0.5)), 3, maximizes=True)
    assert race.shares == (0.25, 0.5, 1.0) and Race(None, 3, maximizes=True).shares == (1.0,)
    assert race.part(0.25) == SamplePart(0.25, 3) and race.part(1.0) is None
    assert not race.goes_on(1.0, 1.0)
