import argparse

from fairseq_ecg.cli.main import build_parser


def parsers(parser: argparse.ArgumentParser):
    """Yield a parser and those of its verbs, of their verbs, and so on."""
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                yield from parsers(child)


def test_every_help_can_be_printed():
    texts = [parser.format_help() for parser in parsers(build_parser())]
    assert len(texts) > 20
    assert any("CODE-15%" in text for text in texts)
