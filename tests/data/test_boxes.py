import json

import pytest

from adhmr.data.boxes import check_inside, parse_box, read_boxes
from adhmr.errors import AdhmrError

BOXES = {"a.jpg": [(1.0, 2.0, 30.5, 40.0), (5.0, 6.0, 7.0, 80.0)], "b.png": [(0.0, 0.0, 10.0, 20.0)]}


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_three_forms_say_the_same(tmp_path):
    corners = {"folder/a.jpg": BOXES["a.jpg"], "b.png": BOXES["b.png"]}
    rows = [
        {"file_name": "a.jpg", "bbox": [1, 2, 29.5, 38], "score": 0.9},
        {"image": "x/b.png", "bbox": [0, 0, 10, 20]},
        {"file_name": "a.jpg", "bbox": [5, 6, 2, 74]},
    ]
    table = "score,image,x0,y0,x1,y1\n1,a.jpg,1,2,30.5,40\n1,b.png,0,0,10,20\n1,a.jpg,5,6,7,80\n"
    for name, content in (("corners.json", corners), ("rows.json", rows), ("table.csv", table)):
        assert read_boxes(written(tmp_path, name, content)) == BOXES, name
    assert read_boxes(written(tmp_path, "nobody.json", {"a.jpg": []})) == {"a.jpg": []}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.json", "{", r"x.json, line 1: not JSON"),
        ("x.json", "3", r"x.json: expected"),
        ("x.json", {"a.jpg": 3}, r"x.json, 'a.jpg': found 3 for a list of boxes"),
        ("x.json", {"a.jpg": [[1, 2, 3]]}, r"x.json, 'a.jpg', box 0: expected four numbers x0, y0, x1, y1"),
        ("x.json", {"a.jpg": [[1, 2, 9, 9], [1, 2, "c", 4]]}, r"'a.jpg', box 1: expected four numbers"),
        ("x.json", {"a.jpg": [[1, 2, 9, float("nan")]]}, r"box 0: expected four numbers"),
        ("x.json", {"a.jpg": [[9, 2, 1, 4]]}, r"box 0: the box \[9, 2, 1, 4\] is less than a pixel wide or high"),
        ("x.json", [{"file_name": "a.jpg"}], r"x.json, row 0: found .*expected"),
        ("x.json", [{"bbox": [1, 2, 3, 4]}], r"x.json, row 0: found"),
        ("x.json", [{"image": "a.jpg", "bbox": "1234"}], r"row 0, bbox: expected four numbers x, y, width, height"),
        ("x.json", [{"image": "a.jpg", "bbox": [1, 2, 0, 4]}], r"row 0: the box"),
        ("x.csv", "image,x0,y0,x1\na.jpg,1,2,3\n", r"x.csv: has no column 'y1'; its first line must be image,x0"),
        ("x.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,4\nb.jpg,1,2,3\n", r"x.csv, line 3: expected four numbers"),
    ],
)
def test_what_is_no_box_is_named(tmp_path, name, content, expected):
    with pytest.raises(AdhmrError, match=expected):
        read_boxes(written(tmp_path, name, content))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(AdhmrError, match=r"none.json: no such file of boxes"):
        read_boxes(tmp_path / "none.json")
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(AdhmrError, match=r"picture.json: not a text file"):
        read_boxes(tmp_path / "picture.json")


def test_boxes_of_the_command_line_and_of_an_image():
    assert parse_box("1,2.5, 30,40") == (1.0, 2.5, 30.0, 40.0)
    for text in ("1,2,3", "a,2,3,4", "", "10,10,5,20"):
        with pytest.raises(AdhmrError, match=rf"--box {text}"):
            parse_box(text)
    check_inside((-20, -20, 5, 5), (100, 50), "here")
    for box in ((100, 0, 120, 20), (0, 50, 20, 80), (-20, 0, 0, 20), (0, -20, 20, 0)):
        with pytest.raises(AdhmrError, match=r"here: the box .* lies outside the image of 100 x 50 pixels"):
            check_inside(box, (100, 50), "here")
