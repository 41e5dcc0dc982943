"""Numbers with their nouns, as in `1 article` and `2,000 articles`."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun.

    Args:
        number: How many there are.
        one: What follows the number 1, such as `article` or `article is`.
        many: What follows any other number, such as `articles are`. Default: `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
