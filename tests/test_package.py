"""The package as others get it: it imports without extras, answers at once, and its files name no machine."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import erv_lightning

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]
EXTRAS = [requirement for requirement in EXTRAS if requirement.name != PROJECT["name"]]  # an extra in another
DECLARED = RUNTIME + EXTRAS
NOT_OURS = {"tensorboard", "sounddevice", "deepspeed"}  # of other people's extras


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=120)


def optional() -> tuple[set[str], set[str]]:
    """Top-level modules and distributions that only the extras bring."""
    runtime = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    extras = {canonicalize_name(requirement.name) for requirement in EXTRAS} - runtime
    owners = importlib.metadata.packages_distributions()
    modules = {module for module, names in owners.items() if {canonicalize_name(name) for name in names} <= extras}
    return modules, extras


# -- importing ---------------------------------------------------------------------------------------------------

WITHOUT = """\
import importlib, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        found = super().find_distributions(*args, **kwargs)
        return (one for one in found if one.metadata["Name"].lower() not in DISTRIBUTIONS)

HIDDEN, DISTRIBUTIONS = set({hidden!r}), set({distributions!r})
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
for name in {modules!r}:
    importlib.import_module(name)
assert not HIDDEN & set(sys.modules), HIDDEN & set(sys.modules)
"""


def test_every_module_imports_without_the_optional_extras() -> None:
    modules, distributions = optional()
    hidden = modules | NOT_OURS
    assert {"openai", "sklearn", "krippendorff", "hypothesis", "pytest", "mypy", "uvicorn"} <= hidden
    ours = [module.name for module in pkgutil.walk_packages(erv_lightning.__path__, "erv_lightning.")]
    assert "erv_lightning.cli" in ours
    done = python(WITHOUT.format(hidden=sorted(hidden), distributions=sorted(distributions | NOT_OURS), modules=ours))

    assert done.returncode == 0, done.stderr


def test_usage_and_mistyped_files_are_answered_without_the_heavy_imports() -> None:
    code = """\
import sys
from erv_lightning.__main__ import main
status = main({words!r})
heavy = set(sys.modules) & set(["torch", "lightning", "transformers", "pandas", "matplotlib"])
assert not heavy, heavy
sys.exit(status)
"""
    usage = python(code.format(words=[]))
    mistyped = python(code.format(words=["fit", "-c", "configs/grpp.yaml"]))

    assert (usage.returncode, usage.stderr) == (0, "")
    assert all(verb in usage.stdout for verb in ("fit", "validate", "test", "predict", "compare", "demo"))
    assert (mistyped.returncode, mistyped.stderr.count("\n")) == (2, 1)
    assert mistyped.stderr.startswith("error: config file 'configs/grpp.yaml' does not exist")


def test_python_m_without_arguments_prints_the_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "erv_lightning"], cwd=ROOT, text=True, capture_output=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python -m erv_lightning VERB")


# -- versions ----------------------------------------------------------------------------------------------------


def pinned() -> dict[str, str]:
    """Name → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), [pin for pin in pins if len(pin) != 2]
    return {canonicalize_name(name): version.strip() for name, version in pins}


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_pinned_version_is_one_that_pyproject_allows(requirement: Requirement) -> None:
    version = pinned().get(canonicalize_name(requirement.name))

    assert version is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(version, prereleases=True)


def installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_everything_pinned_is_there_for_something_that_we_depend_on() -> None:
    wanted = {canonicalize_name(requirement.name) for requirement in DECLARED}
    pins, unread = set(pinned()), list(wanted)
    while unread:
        name = unread.pop()
        requires = importlib.metadata.requires(name) or [] if installed(name) else []
        names = {canonicalize_name(Requirement(text).name) for text in requires} & pins
        unread += names - wanted
        wanted |= names
    unexplained = pins - wanted
    if not all(installed(requirement.name) for requirement in EXTRAS):  # `make install` leaves out the benchmarks'
        unexplained = {name for name in unexplained if installed(name)}  # the others may be what they depend on

    assert unexplained == set()


def test_the_version_is_the_same_everywhere() -> None:
    assert erv_lightning.__version__ == PROJECT["version"]
    assert erv_lightning.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# -- files -------------------------------------------------------------------------------------------------------

REGISTRY = re.compile(r"https?://\S*(?:pypi|pythonhosted|/simple\b|conda\.|npmjs)|--(?:extra-)?index-url")
MACHINE = re.compile(r"(?<![\w.:/}\"'~-])/(?:home|root|Users|work|workspace|mnt|scratch)/[\w.-]+")


def own_files() -> list[Path]:
    """What git has, and what it would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=60).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file() and ROOT / name != Path(__file__)]


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    found = []
    for file in own_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # pictures
            continue
        found += [f"{file.relative_to(ROOT)}: {hit[0]}" for hit in (*REGISTRY.finditer(text), *MACHINE.finditer(text))]

    assert found == []


def test_no_file_of_the_repository_is_large() -> None:
    large = {str(file.relative_to(ROOT)) for file in own_files() if file.stat().st_size > 1_000_000}

    assert large == set()


def test_every_file_that_is_no_module_is_declared_as_data_of_the_package() -> None:
    """Or an installed copy would lack it, while this checkout has it."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["erv_lightning"]
    package = ROOT / "erv_lightning"
    declared = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}

    assert len(others) > 10
    assert others == declared
