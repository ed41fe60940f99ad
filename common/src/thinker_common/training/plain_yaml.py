"""YAML as recipes use it: plain data, with the YAML 1.2 rules for plain scalars.

PyYAML follows YAML 1.1, where `no` is false, `1e-6` is text and `010` is eight. Here `no` and `on` are text, `1e-6` is
a number, numbers with leading zeros and dates are text. Tags, aliases and keys given twice are errors.
"""

import re
from typing import Any

import yaml

from ..errors import SettingsError

_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # Leading zeros stay text: a revision such as 0123456 must not lose its zero.
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


_DEEPEST = 50  # brackets in brackets; PyYAML's time grows with the square of them


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows the scalars above only, and refuses tags, aliases and keys given twice."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        if self.flow_level == _DEEPEST:
            raise yaml.scanner.ScannerError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark
            raise yaml.composer.ComposerError(problem="aliases (*name) are not accepted", problem_mark=mark)
        event = self.peek_event()
        if event.tag is not None:
            problem = "tags (!name) are not accepted"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # PyYAML folds these line breaks into spaces in every style but the double-quoted one.
        unusual = any(character in data for character in "\x85\u2028\u2029")
        style = '"' if unusual else "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}  # in place of those inherited, which are YAML 1.1's
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. SettingsError names the source, the line and the column of what is wrong."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{source}{place}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:  # a number of thousands of digits
        raise SettingsError(f"{source}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"{source}: nested too deeply") from error


def dump_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
