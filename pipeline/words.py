"""Numbers in sentences."""


def counted(number: float, one: str, many: str = "") -> str:
    """A number and what there is so much of, as in "1 face", "2,000 faces" and "0.5 GPUs".

    many: the plural, where it is not one with an s.
    """
    return f"{f'{number:g}' if number % 1 else f'{int(number):,}'} {one if number == 1 else many or one + 's'}"


def figures(number: float) -> str:
    """Four significant figures, but never with an exponent for a large number: "0.1234", "79.36", "108,412"."""
    return f"{number:,.0f}" if abs(number) >= 1e4 else f"{number:.4g}"
