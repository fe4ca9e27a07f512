"""Finds code that sets attributes of other packages, or reads private ones, from its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# What Python itself offers to be set, and where `shtab` looks for how a flag is completed.
_OFFERED = ("sys.stdin", "sys.stdout", "sys.stderr", "action.complete", "action.choices")
# Of Python's own library: `os._exit` is public, and argparse has no other way to list its flags.
_OF_PYTHON = ("_exit", "_actions", "_SubParsersAction")
_SETTERS = ("setattr", "delattr", "object.__setattr__", "object.__delattr__")


def writes(source: str) -> list[str]:
    """Returns the statements of a module that change what another package owns.

    Attributes may be set on `self` and `cls`, and on what the module makes itself. Everything else
    counts: modules that are imported, what is reached through them, and parameters, behind which
    there may be an object of another package.
    """
    tree = ast.parse(source)
    imported, own = _imported(tree), _own(tree)
    found = []
    for node in ast.walk(tree):
        for target in _targets(node):
            is_item = isinstance(target, ast.Subscript)
            root = _root(target)
            if root in ("self", "cls") or root in own - imported:
                continue
            if ast.unparse(target) in _OFFERED:
                continue
            # Items may be set in a parameter, such as a dict that is filled.
            if root in imported or not is_item:
                found.append(ast.unparse(node))
    return found


def private_reads(source: str) -> list[str]:
    """Returns the private names that a module reads and does not define itself."""
    tree = ast.parse(source)
    defined = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    defined |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and _root(node) in ("self", "cls")
    }
    defined |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return sorted({name for name in _private_names(tree) if name not in defined})


def _private_names(tree: ast.AST) -> Iterator[str]:
    # Named tuples have public names that look private.
    public = ("_asdict", "_fields", "_replace", "_make", *_OF_PYTHON)
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            second = node.args[1]
            name = second.value if isinstance(second, ast.Constant) else ""
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("hmoe"):
            yield from (each.name for each in node.names if each.name.startswith("_"))
        if name.startswith("_") and not name.startswith("__") and name not in public:
            yield name


def _targets(node: ast.AST) -> list[ast.expr]:
    """Returns the attributes and items that a statement sets or deletes."""
    targets: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
        targets = [node.target]
    elif isinstance(node, ast.With):
        targets = [each.optional_vars for each in node.items if each.optional_vars]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in _SETTERS and node.args:
        # As if `first.something = value` stood there.
        return [ast.Attribute(node.args[0], "something")]
    flat = [each for target in targets for each in getattr(target, "elts", [target])]
    return [each for each in flat if isinstance(each, (ast.Attribute, ast.Subscript))]


def _root(node: ast.expr) -> str:
    """Returns the name on the left of `name.a[0].b`, or "" if something else stands there."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _imported(tree: ast.AST) -> set[str]:
    """Returns the names of imported modules and objects, and of variables that hold them."""
    names = {
        (each.asname or each.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for each in node.names
    }
    before = set()
    while before != names:
        before = set(names)
        for node in ast.walk(tree):
            # Of `ops = mtf.ops`, but not of what a call returns.
            if isinstance(node, ast.Assign) and _root(node.value) in names:
                names |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return names


def _own(tree: ast.AST) -> set[str]:
    """Returns the names of variables to which something is assigned."""
    return {
        each.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for each in ast.walk(target)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
