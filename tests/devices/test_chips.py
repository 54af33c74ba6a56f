"""The table of chips: found by what JAX calls their devices, each name once."""

import pytest

from jaxvid.devices import chips


def test_every_kind_and_name_finds_its_one_chip():
    kinds = [kind for chip in chips.CHIPS for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)
    assert len({chip.name for chip in chips.CHIPS}) == len(chips.CHIPS)
    for chip in chips.CHIPS:
        assert chips.by_name(chip.name) is chip
        assert all(chips.by_kind(kind) is chip for kind in chip.device_kinds)


@pytest.mark.parametrize("kind", ["cpu", "TPU", "TPU v5 litepod", "NVIDIA H100 PCIe", ""])
def test_another_kind_is_no_chip_of_the_table(kind):
    assert chips.by_kind(kind) is None
    assert chips.by_name(kind) is None


def test_the_figures_of_v5e_are_its_page_s():
    chip = chips.by_kind("TPU v5 lite")
    assert chip is not None
    assert (chip.name, chip.flops, chip.bandwidth) == ("v5e", 197e12, 819e9)
    assert chip.memory == 16 * 2**30
    # Operations per byte, above which a program is bound by the former.
    assert chip.flops / chip.bandwidth == pytest.approx(240.5, abs=0.1)
