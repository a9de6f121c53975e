"""Generate the API reference from the docstrings, one page per module, with pdoc.

python docs/build.py [FOLDER]            # default: build/api; needs the extra `docs`
"""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import minivideococa

ROOT = Path(__file__).resolve().parents[1]


def main(folder: Path = ROOT / "build" / "api") -> None:
    for name in minivideococa.__all__:  # attributes that are imported on first use
        setattr(minivideococa, name, getattr(minivideococa, name))
    modules = ["minivideococa"]
    for module in pkgutil.walk_packages(minivideococa.__path__, "minivideococa."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            modules.append(module.name)
    pdoc.render.configure(footer_text=f"minivideococa {minivideococa.__version__}", show_source=True)
    warnings.filterwarnings(
        "ignore",
        "The module specification .* already been added|Error parsing type|Failed to run TYPE_CHECKING",
    )
    pdoc.pdoc(*modules, output_directory=folder)
    print(f"{len(modules)} pages: {folder / 'index.html'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
