from rich.table import Table

from semipose.configs.console import plain_console

TEXTS = ("[bold] photos/a [b] c", "photos[/b]", "keypoints as [[x, y, v], ...]", ":key:.jpg", r"a\[b]")


def test_names_that_look_like_markup_are_printed_as_they_are(capsys):
    console = plain_console(width=200)
    for text in TEXTS:
        console.print(text)
        assert capsys.readouterr().out == f"{text}\n"
        table = Table(text, title=f"of {text}")
        table.add_row(f"row {text}")
        console.print(table)
        shown = capsys.readouterr().out
        assert f"of {text}" in shown
        assert f"row {text}" in shown
        assert shown.count(text) == 3


def test_its_options_are_those_of_rich(capsys):
    plain_console(stderr=True, soft_wrap=True).print("a " * 200)
    assert capsys.readouterr() == ("", "a " * 200 + "\n")
