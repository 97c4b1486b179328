"""What a mutant is: one operator, constant, condition, reply or statement other than it was written."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import CodeType

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_UNREAD = {"__repr__", "__str__"}
_BOUNDARY = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@dataclass(frozen=True)
class Mutant:
    """One change: `was` becomes `becomes`, each the statement (of a compound one, the head) as source.

    `code` is that of the outermost function round it; None for a constant of the module, which is `value` then.
    """

    function: str
    was: str
    becomes: str
    line: int
    code: CodeType | None = None
    value: object = None


def mutants(source: str, filename: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of its lines."""
    found: dict[tuple[str, str, str], Mutant] = {}
    for mutant in _all(ast.parse(source), filename):
        function, time = mutant.function, 2
        while (mutant.function, mutant.was, mutant.becomes) in found:  # the same words stand there again
            mutant, time = replace(mutant, function=f"{function} ({time})"), time + 1
        found[mutant.function, mutant.was, mutant.becomes] = mutant
    return list(found.values())


def _all(tree: ast.Module, filename: str) -> Iterator[Mutant]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            value, name = node.value.value, ast.unparse(node.targets[0])
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield Mutant(name, ast.unparse(node), f"{name} = {value + 1}", node.lineno, value=value + 1)
    for name, function in _functions(tree, ""):
        if function.name not in _UNREAD:
            yield from _of(tree, name, function, filename)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + each.name, each
        elif isinstance(each, ast.ClassDef):
            yield from _functions(each, f"{prefix}{each.name}.")


def _of(
    tree: ast.Module, name: str, function: ast.FunctionDef | ast.AsyncFunctionDef, filename: str
) -> Iterator[Mutant]:
    """Change the function in the tree, compile the tree, and change it back."""
    for statement, parent, field, at in _statements(function):
        was = _head(statement)
        if statement is function.body[-1] and isinstance(statement, ast.Return) and _is_none(statement.value):
            continue  # says what would happen anyway
        for change, undo in _changes(statement, parent, field, at):
            change()
            becomes = _head(getattr(parent, field)[at])
            try:
                ast.fix_missing_locations(tree)
                code = _find(compile(tree, filename, "exec"), function)
            finally:
                undo()
            if code is not None and becomes != was:
                yield Mutant(name, was, becomes, statement.lineno, code)


def _statements(function: ast.AST) -> Iterator[tuple[ast.stmt, ast.AST, str, int]]:
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for at, each in enumerate(getattr(function, field, [])):
            if isinstance(each, ast.stmt):
                yield each, function, field, at
            yield from _statements(each)


def _changes(statement: ast.stmt, parent: ast.AST, field: str, at: int) -> Iterator[tuple]:
    for node, where, name, index in _expressions(statement):
        for other in _others(node):
            yield _swap(where, name, index, other)
    if isinstance(statement, ast.AugAssign) and type(statement.op) in _ARITHMETIC:
        yield _swap(statement, "op", None, _ARITHMETIC[type(statement.op)]())
    if isinstance(statement, ast.If | ast.While) and not _single(statement.test):
        yield _swap(statement, "test", None, ast.UnaryOp(ast.Not(), statement.test))
    if isinstance(statement, ast.Return) and not _is_none(statement.value) and not _is_false(statement.value):
        yield _swap(statement, "value", None, ast.Constant(None))
    if _deletable(statement):
        yield _swap(parent, field, at, ast.Pass())


def _swap(where: ast.AST, name: str, index: int | None, other: ast.AST) -> tuple:
    before = getattr(where, name) if index is None else getattr(where, name)[index]

    def put(node: object) -> None:
        if index is None:
            setattr(where, name, node)
        else:
            getattr(where, name)[index] = node

    return (lambda: put(other)), (lambda: put(before))


def _expressions(node: ast.AST) -> Iterator[tuple[ast.expr, ast.AST, str, int | None]]:
    """Walk the expressions of a statement, not of those inside it, nor what is only text or a type."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call | ast.Lambda):
            continue
        for index, each in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(each, ast.JoinedStr | ast.stmt) or not isinstance(each, ast.AST):
                continue
            if isinstance(each, ast.keyword) and each.arg == "strict":  # an assertion
                continue
            if isinstance(each, ast.expr):
                yield each, node, name, index
            yield from _expressions(each)


def _others(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            other = copy.copy(node)
            other.ops = [*node.ops[:at], _COMPARE[type(op)](), *node.ops[at + 1 :]]
            yield other
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        yield ast.Name(_NAMES[node.id], node.ctx)


def _single(test: ast.expr) -> bool:
    """Whether a change of its operator says the contrary already."""
    if isinstance(test, ast.UnaryOp):
        return isinstance(test.op, ast.Not)
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], _BOUNDARY)


def _deletable(statement: ast.stmt) -> bool:
    """Whether it may go; a local name that is missing would be noticed by Python, not by a test."""
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return statement.value is not None and all(isinstance(t, ast.Attribute | ast.Subscript) for t in targets)
    if isinstance(statement, ast.Return):
        return _is_none(statement.value)
    return isinstance(statement, ast.AugAssign | ast.Delete | ast.Raise | ast.Break | ast.Continue)


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_false(value: ast.expr | None) -> bool:
    """Whether None would say the same."""
    return isinstance(value, ast.Constant) and value.value is False


def _head(statement: ast.stmt) -> str:
    """Return the statement on one line; of a compound one only its first."""
    text = ast.unparse(statement)
    if isinstance(
        statement, ast.If | ast.While | ast.For | ast.With | ast.Try | ast.FunctionDef | ast.AsyncFunctionDef
    ):
        text = next(line for line in text.splitlines() if not line.startswith("@"))
    return " ".join(text.split())


def _find(code: CodeType, function: ast.FunctionDef | ast.AsyncFunctionDef) -> CodeType | None:
    """Find a function's code in its module's; a decorator moves the first line up."""
    first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
    for const in code.co_consts:
        if isinstance(const, CodeType):
            if const.co_name == function.name and const.co_firstlineno == first:
                return const
            inner = _find(const, function)
            if inner is not None:
                return inner
    return None
