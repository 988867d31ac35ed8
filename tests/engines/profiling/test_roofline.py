from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.efficientvit import CALIBRATED, HELD_OUT, Published, graph
from engines.manifest import Cost
from engines.profiling import roofline
from engines.profiling.layers import Layer, layers_of
from engines.profiling.roofline import AGX_ORIN, DEVICES, roof

NETWORKS = (*CALIBRATED, *HELD_OUT)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_counted_products_are_the_published_ones(network: Published) -> None:
    layers = layers_of(graph(network))
    assert sum(layer.flops for layer in layers) / 2e9 == pytest.approx(network.giga_macs, rel=0.02)


@pytest.mark.parametrize("network", CALIBRATED, ids=lambda network: network.name)
def test_latencies_the_rates_were_chosen_by_are_met_within_30_percent(network: Published) -> None:
    assert 1e3 / AGX_ORIN.tiles_per_s(layers_of(graph(network))) == pytest.approx(network.latency_ms, rel=0.3)


@pytest.mark.parametrize("network", HELD_OUT, ids=lambda network: network.name)
def test_latencies_the_rates_were_not_chosen_by_are_met_within_30_percent(network: Published) -> None:
    assert 1e3 / AGX_ORIN.tiles_per_s(layers_of(graph(network))) == pytest.approx(network.latency_ms, rel=0.3)


WIDE_LAYER = Layer("conv", "Conv", "dense", flops=10**11, bytes_moved=10**6, shape=(1, 256, 128, 128))
THIN_LAYER = Layer("resize", "Resize", "memory", flops=0, bytes_moved=10**9, shape=(1, 64, 512, 512))


def test_a_wide_convolution_follows_the_clock_and_a_resize_the_memory() -> None:
    slow, fast = DEVICES[0].orin, DEVICES[1].orin
    assert slow is not None and fast is not None
    assert slow.seconds(WIDE_LAYER) / fast.seconds(WIDE_LAYER) == pytest.approx(918 / 408, rel=0.01)
    assert slow.seconds(THIN_LAYER) / fast.seconds(THIN_LAYER) == pytest.approx(1.0, rel=0.01)


def test_products_of_8_bit_numbers_take_half_as_long() -> None:
    assert AGX_ORIN.seconds(WIDE_LAYER) / AGX_ORIN.seconds(replace(WIDE_LAYER, int8=True)) == pytest.approx(2, rel=0.01)


def test_the_cautious_expectation_has_memory_follow_the_clock() -> None:
    slow = DEVICES[0].orin
    assert slow is not None
    assert slow.cautious_tiles_per_s([THIN_LAYER]) < slow.tiles_per_s([THIN_LAYER]) / 2
    assert slow.cautious_tiles_per_s([WIDE_LAYER]) == pytest.approx(slow.tiles_per_s([WIDE_LAYER]), rel=0.01)


def test_nothing_is_expected_where_nothing_was_calibrated() -> None:
    found = roof(Cost(flops=10**9, bytes_moved=10**6), DEVICES[-1], [WIDE_LAYER])
    assert (found.device, found.expected_tiles_per_s, found.cautious_tiles_per_s) == ("H200", None, None)
    assert roof(Cost(flops=10**9, bytes_moved=10**6), DEVICES[0]).expected_tiles_per_s is None


def test_the_first_touch_of_pages_is_no_memory_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call may take longer than all the time there is: it is never the only one."""
    now, durations = 0.0, iter([10.0, 0.4, 0.2, 0.3])

    def work() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("engines.profiling.roofline.time.perf_counter", lambda: now)
    assert roofline._best(work, 0.5) == pytest.approx(0.2)


def test_this_machine_s_rates_are_of_bytes_read_and_written() -> None:
    rates = roofline.this_cpu(0.02)
    assert rates.bytes_per_s > 0
    assert rates.number_bytes == 4
    assert "touched" in rates.source
