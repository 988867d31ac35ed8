from __future__ import annotations

from pathlib import Path

import pytest

from tests.onboard.campaign import FAULTS, KILLS, Campaign

BOTH = ("bands", "light")


@pytest.mark.parametrize(("heads", "kills"), [((), 20), (BOTH, 10)], ids=["one map", "two heads"])
def test_a_short_campaign_of_kills_breaks_no_promise(tmp_path: Path, heads: tuple[str, ...], kills: int) -> None:
    campaign = Campaign(tmp_path, kills=kills, scenes=4, seed=1, targets=KILLS, heads=heads)
    campaign.run()
    assert sum(campaign.killed.values()) == kills
    assert len(campaign.killed) >= 3


def test_a_short_campaign_of_other_faults_breaks_no_promise(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, kills=12, scenes=3, seed=2, targets=FAULTS)
    campaign.run()
    assert sum(campaign.killed.values()) == 12
    assert len(campaign.killed) >= 4
