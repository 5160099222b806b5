"""Large JSON files, element by element: wherever a chunk ends, the same elements as from the whole."""

from __future__ import annotations

import json

import pytest

from adhmr.data.sources import json_elements as module
from adhmr.data.sources.json_elements import json_elements

CONTENT = {
    "info": {"year": 2019, "list": [1, 2.5, "x]}"]},
    "annotations": [{"id": 1, "a": [[1.25, -3e-5], [None, 7]]}, {"id": 22, "text": 'quo"te \\ é ['}],
    "version": 12345,
    "images": [{"id": 9}],
    "nothing": None,
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_same_elements_for_any_chunk(chunk, indent, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=False), encoding="utf-8")
    found = list(json_elements(path, ("images", "annotations")))
    assert found == [("annotations", one) for one in CONTENT["annotations"]] + [("images", {"id": 9})]
    path.write_text(json.dumps(CONTENT["annotations"] + [123, []], indent=indent), encoding="utf-8")
    assert [one for _, one in json_elements(path, ())] == [*CONTENT["annotations"], 123, []]
    path.write_text("[]")
    assert list(json_elements(path, ())) == []


def test_an_element_without_end_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "LONGEST", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"a": oops' + " " * 100_000 + "}]")
    with pytest.raises(module.AdhmrError, match="not readable JSON"):
        list(json_elements(path, ()))
