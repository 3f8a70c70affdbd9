"""Numbers in sentences."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what there is so much of, as in "1 face" and "2,000 faces".

    many: the plural, where it is not one with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
