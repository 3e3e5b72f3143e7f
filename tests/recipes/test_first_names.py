"""The published losses of the list of names, with the trainings that the lessons run."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundup.foundations.names.data import NameData
from groundup.foundations.names.training import mean_loss
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.names import PUBLISHED, PUBLISHED_LIST, is_published, train_mlp, train_wavenet

NAMES = Path(__file__).resolve().parents[2] / "../shared/data/names/names.txt"


@pytest.fixture(scope="module")
def names() -> list[str]:
    if not NAMES.is_file():
        pytest.skip(f"{NAMES} is not there")
    return NAMES.read_text(encoding="utf-8").split()


def test_the_published_list_is_known(names: list[str], tmp_path: Path) -> None:
    assert len(names) == 32_033 and len(PUBLISHED_LIST) == 64
    assert is_published(Material(str(NAMES)))
    (tmp_path / "other.txt").write_text("\n".join(names[1:]), encoding="utf-8")
    assert not is_published(Material(str(tmp_path / "other.txt")))


@pytest.mark.slow
def test_the_networks_reach_the_published_losses(names: list[str]) -> None:
    data = NameData(names)
    for name, make in (("mlp", train_mlp), ("wavenet", train_wavenet)):
        model, _ = make(data, Pace())
        loss = mean_loss(model, *data.contexts(data.validation, model.block_size))
        assert loss <= PUBLISHED[name], name
