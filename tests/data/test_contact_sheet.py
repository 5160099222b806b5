import cv2
import pytest

from adhmr.data.contact_sheet import contact_sheet, describe
from adhmr.errors import AdhmrError


def test_the_sheet_shows_as_many_samples_as_asked_for(make_set, tmp_path):
    folder = make_set(count=25)
    sheet = cv2.imread(str(contact_sheet(folder, 10, tmp_path / "out" / "sheet.png")))
    assert sheet.shape == (2 * 82 + 2, 8 * 98 + 2, 3)
    assert sheet[84 + 10, 2 * 98 + 50 :].max() == 30  # ten cells: the second row ends after two
    assert sheet[84:164, : 2 * 98].std() > 10
    with pytest.raises(AdhmrError, match="the picture cannot be written"):
        contact_sheet(folder, 2, tmp_path / "sheet.nothing")


def test_the_table_says_what_a_folder_holds(make_set):
    table = dict(line.split("  ", 1) for line in describe(make_set(count=25)).splitlines())
    table = {name.strip(): value.strip() for name, value in table.items()}
    assert table["samples"].startswith("25 in 3 shards")
    assert table["licence"] == "CC0" and table["source, split"] == "test, train"
    assert table["has_depth"] == "100.0%" and table["image height x width"] == "80 x 96: 100%"
    assert table["joints Z"].endswith(" m")
