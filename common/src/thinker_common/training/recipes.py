"""The recipes that a package ships: the YAML files in its folder `recipes`."""

from importlib.resources import files

from ..errors import UserError, did_you_mean


def recipe_names(package: str) -> list[str]:
    folder = files(package).joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(package: str, name: str) -> str:
    """The recipe's YAML. UserError with the nearest name if the package ships none of that name."""
    names = recipe_names(package)
    if name not in names:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)})")
    return files(package).joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def recipe_summary(text: str) -> str:
    """The first comment line of a recipe, which says what it is for."""
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
