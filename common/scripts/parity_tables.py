r"""The tables of docs/results/parity.md, from what the parity tests of all methods have measured.

    python -m pytest -m "slow or not slow" --junitxml parity.xml \
        common/tests/test_parity.py packages/*/tests/test_*parity.py
    python common/scripts/parity_tables.py parity.xml

Every test writes its differences into the file as properties; a table is made for each method.
"""

import re
import sys
from xml.etree import ElementTree

COLUMNS = {
    "loss_max": "losses, largest difference",
    "loss_drift": "losses, mean drift",
    "grad_norm_relative": "gradient norm",
    "weight_change_relative": "weight change",
    "advantages": "advantages",
    "rewards": "rewards",
    "grad_norm": "gradient norm",
    "first_gradient": "first gradient",
    "weight_change": "weight change",
}
NUMBER = re.compile(r"(\w+)[= ](nan|[\d.]+(?:e[+-]?\d+)?)\b")
RANKS = re.compile(r"(?:, )?((?:\d ranks|accumulation|activation|wrong|one process).*)")


def main(path: str) -> None:
    tables: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for measured in ElementTree.parse(path).iter("property"):
        name = measured.attrib["name"]
        if "parity, " not in name:
            continue
        name = name.replace("parity, ", "", 1)
        layout = RANKS.search(name)
        assert layout is not None, name
        method = name[: layout.start()] or "supervised fine-tuning"
        tables.setdefault(method, []).append((layout[1], dict(NUMBER.findall(measured.attrib["value"]))))
    for method, rows in sorted(tables.items()):
        columns = list(rows[0][1])
        print(f"**{method}**\n")
        print("| layout | " + " | ".join(COLUMNS[column] for column in columns) + " |")
        print("|---|" + "---|" * len(columns))
        for layout, values in rows:
            print(f"| {layout} | " + " | ".join(f"{float(values[column]):.1e}" for column in columns) + " |")
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
