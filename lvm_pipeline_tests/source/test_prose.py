import pytest

from lvm_pipeline.source.prose import prose_paragraphs, reads_as_english

NUMPYDOC = """Fit the model to the data that it is given.

    The algorithm looks at each row once. It keeps
    a running mean of what it saw [1]_.

    Parameters
    ----------
    x : array
        The rows of the table that are to be fitted.

    Returns
    -------
    object
        The model itself is returned to the caller.

    Notes
    -----
    The cost of a fit is linear in the number of rows.

    References
    ----------
    .. [1] A. Author wrote a book on this in the year 1999.

    Examples
    --------
    >>> fit([1, 2])
    The output of this example is not a part of the prose.
    """

GOOGLE = """Sends the request to the server.

It waits until an answer is there.

Args:
    url: The place to which the request is sent.

Returns:
    The answer of the server as it came.

Note:
    The connection is kept open for the next request.
"""

REST = """Open a :class:`~pkg.session.Session` with ``name`` and *care*.

.. versionadded:: 1.4
   This was added in a version of old.

.. note:: A session is not safe to share.
   Each thread is to make a session of its own.

The call looks like the following::

    session = open_the_session("this is a name")

- The first item is a sentence of its own.
- no sentence

:param name: The name that the session is to be given.

==========  ==========
A column    Another one of the table
==========  ==========
"""


def sentences(docstring):
    return [sentence for paragraph in prose_paragraphs(docstring) for sentence in paragraph]


def test_numpydoc_keeps_summary_and_notes():
    assert sentences(NUMPYDOC) == [
        "Fit the model to the data that it is given.",
        "The algorithm looks at each row once.",
        "It keeps a running mean of what it saw.",
        "The cost of a fit is linear in the number of rows.",
    ]


def test_google_sections_other_than_notes_are_left_out():
    assert sentences(GOOGLE) == [
        "Sends the request to the server.",
        "It waits until an answer is there.",
        "The connection is kept open for the next request.",
    ]


def test_rest_markup_goes_and_its_words_stay():
    assert sentences(REST) == [
        "Open a Session with name and care.",
        "Each thread is to make a session of its own.",
        "The first item is a sentence of its own.",
    ]


def test_a_sentence_that_led_to_a_formula_is_left_out():
    found = sentences("The mean is taken of all rows. It is given by\n\n.. math:: x = y\n")
    assert found == ["The mean is taken of all rows."]


def test_a_missing_full_stop_is_given():
    assert sentences("Return the name of the thing") == ["Return the name of the thing."]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is x = y + z in the end.",
        "Use func(a=1) in the call.",
        "See https://example.org for the rest.",
        "Too short here.",
        "ends in lower case of the start.",
        "The sentence has no end",
        "Licensed under the terms of the author.",
        "Name Type Value Description Default Meaning.",
        "The (open bracket is not closed.",
        "The array 1 2 3 4 5 6 7 8 9 is shown.",
    ],
)
def test_markup_and_code_are_not_prose(sentence):
    assert not reads_as_english(sentence)


def test_plain_english_is_read():
    assert reads_as_english("If axis=0, the mean is taken over all rows (and no column).")
