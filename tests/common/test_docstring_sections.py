import pytest

from common.python_docs import Parameter, is_prose, paragraphs, parameters

NUMPY = """Roll the *elements* along an axis.

Elements that roll beyond the last position are
re-introduced at the first.

Parameters
----------
a : array_like
    Input array. It may have
    any number of dimensions.

    A second paragraph about it.
x, y : int, optional
    How far :func:`~numpy.roll` goes.
undescribed : int
**kwargs
    Passed on.

Returns
-------
res : ndarray
    Output array, with the same shape as the input.

Notes
-----
Supports rolling over several dimensions at once.

>>> roll(1)
2

- The first item reads like a sentence.
- and this one does not
"""
GOOGLE = """Build a model.

Args:
    config (`Config`, *optional*, defaults to None):
        Configuration of the model.
    size: Number of the layers
        to build here.
    nothing:

Returns:
    Model: the model that was built from these.
"""
SPHINX = """Do it.

:param int count: how often to do it,
    at the most
:param name: whose name it is
:return: whether it was done
"""


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            NUMPY,
            [
                Parameter("a", "array_like", "Input array. It may have any number of dimensions."),
                Parameter("x, y", "int, optional", "How far roll goes."),
                Parameter("kwargs", "", "Passed on."),
            ],
        ),
        (
            GOOGLE,
            [
                Parameter("config", "Config, optional, defaults to None", "Configuration of the model."),
                Parameter("size", "", "Number of the layers to build here."),
            ],
        ),
        (
            SPHINX,
            [
                Parameter("count", "int", "how often to do it, at the most"),
                Parameter("name", "", "whose name it is"),
            ],
        ),
        ("Just prose: with a colon.\n\nAnd more.", []),
        ("", []),
    ],
)
def test_parameters(docstring: str, expected: list[Parameter]) -> None:
    assert parameters(docstring) == expected


def test_paragraphs_are_the_prose_of_all_sections() -> None:
    assert paragraphs(NUMPY) == [
        "Input array. It may have any number of dimensions.",
        "Roll the elements along an axis.",
        "Elements that roll beyond the last position are re-introduced at the first.",
        "A second paragraph about it.",
        "Output array, with the same shape as the input.",
        "Supports rolling over several dimensions at once.",
        "The first item reads like a sentence.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a sentence of words.", True),
        ("Too few words.", False),
        ("no capital at the beginning here.", False),
        ("No full stop at the end", False),
        ("It has x = [1, 2] + y[3] in it.", False),
        ("Call f(x)[0] and then go home.", False),
        ("A 1 2 3 4 5 6 seven.", False),
    ],
)
def test_is_prose(text: str, expected: bool) -> None:
    assert is_prose(text) is expected
