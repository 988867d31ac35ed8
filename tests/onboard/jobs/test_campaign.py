from __future__ import annotations

from pathlib import Path

from tests.onboard.campaign import Campaign


def test_a_short_campaign_of_kills_breaks_no_promise(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, kills=20, scenes=4, seed=1)
    campaign.run()
    assert sum(campaign.killed.values()) == 20
    assert len(campaign.killed) >= 3
