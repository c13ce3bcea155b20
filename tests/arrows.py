"""Reads who imports whom from the source, function-level imports included, without importing anything."""

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOTS = ("tfseq2seq", "pipelines", "serving")


@dataclasses.dataclass(frozen=True)
class Import:
    """One import as written.

    Attributes:
        target: dotted name: a module, or a module and a name in it.
        line: where it stands.
        in_function: whether it runs only when a function is called.
    """

    target: str
    line: int
    in_function: bool


def read_tree(folder: Path) -> dict[str, list[Import]]:
    """The modules below the three packages of `folder`, with their imports."""
    tree = {}
    for root in ROOTS:
        for path in sorted((folder / root).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            package = module if is_package else module.rpartition(".")[0]
            source = ast.parse(path.read_text(encoding="utf-8"), str(path))
            tree[module] = list(_imports(source, package, in_function=False))
    return tree


def _imports(node: ast.AST, package: str, in_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, in_function)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package.split(".")[: -child.level + 1 or None]) if child.level else ""
            base = ".".join(part for part in (base, child.module) if part)
            for alias in child.names:
                target = base if alias.name == "*" else f"{base}.{alias.name}"
                yield Import(target, child.lineno, in_function)
        elif isinstance(child, ast.Call) and _is_import_call(child.func):
            name = child.args[0] if child.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield Import(name.value, child.lineno, in_function)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, package, in_function or is_function)


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def resolve(target: str, modules: Iterable[str]) -> str:
    """The longest leading part of `target` that is a module of ours; `target` itself when none is."""
    known = set(modules)
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in known:
            return name
    return target


def matches(module: str, pattern: str) -> bool:
    """Whether `module` is `pattern`; a pattern "name.*" takes in `name` and all below it."""
    base = pattern.removesuffix(".*")
    return module == base or (base != pattern and module.startswith(base + "."))


def place(module: str, arrows: Mapping[str, Iterable[str]]) -> str | None:
    """The most precise pattern of `arrows` that takes in `module`."""
    return max((pattern for pattern in arrows if matches(module, pattern)), key=len, default=None)


def violations(tree: Mapping[str, list[Import]], arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports between our modules that `arrows` (module pattern -> patterns it may import) does not allow."""
    named = {pattern.removesuffix(".*") for key, allowed in arrows.items() for pattern in (key, *allowed)}
    found = []
    for module, imports in tree.items():
        pattern = place(module, arrows)
        if pattern is None:
            found.append(f"{module} has no place among the arrows; give it one.")
            continue
        allowed = [*arrows[pattern], *([pattern] if pattern.endswith(".*") else [])]
        for imported in imports:
            target = resolve(imported.target, [*tree, *named])  # a partial tree has holes
            if target.split(".")[0] in ROOTS and not any(matches(target, each) for each in allowed):
                found.append(f"{module}:{imported.line} must not import {target}.")
    return found


def packages(module: str) -> set[str]:
    """The packages that `module` lies in; importing it runs them first."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def edges(tree: Mapping[str, list[Import]]) -> dict[str, set[str]]:
    """Module -> our modules that its imports run; not the packages that it lies in itself, unless named."""
    graph = {}
    for module, imports in tree.items():
        targets = {resolve(imported.target, tree) for imported in imports} & set(tree)
        run_first = {package for target in targets for package in packages(target)} & set(tree)
        graph[module] = targets | (run_first - packages(module) - {module})
    return graph


def cycles(tree: Mapping[str, list[Import]]) -> list[list[str]]:
    """Chains of imports that come back to where they began, one for each module that closes one."""
    graph = edges(tree)
    finished: set[str] = set()
    found: list[list[str]] = []

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append([*chain[chain.index(module) :], module])
        elif module not in finished:
            for target in sorted(graph[module]):
                visit(target, [*chain, module])
            finished.add(module)

    for module in graph:
        visit(module, [])
    return found


def loaded_by(module: str, tree: Mapping[str, list[Import]]) -> dict[str, list[str]]:
    """Every top-level name outside our packages that `module` leads to -> the chain of our modules to it."""
    graph = edges(tree)
    reached: dict[str, list[str]] = {}
    waiting = [[each] for each in [module, *sorted(packages(module) & set(tree))]]
    seen = set()
    while waiting:
        chain = waiting.pop(0)
        if chain[-1] in seen:
            continue
        seen.add(chain[-1])
        for imported in tree[chain[-1]]:
            outside = imported.target.split(".")[0]
            if outside not in ROOTS:
                reached.setdefault(outside, chain)
        waiting += [[*chain, target] for target in sorted(graph[chain[-1]])]
    return reached
