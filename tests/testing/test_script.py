import pytest

from reverie.testing import Script


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": "Hello"}, "sequence of pieces"),
        ({"batch": 0}, "batch"),
        ({"split": 0}, "split"),
        ({"split": 3, "cuts": (5,)}, "exclude"),
    ],
)
def test_a_script_that_contradicts_itself_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Script(**fields)
