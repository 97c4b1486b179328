"""A rule is a frozen value that validates itself: fields, units, ranges and defaults are said once, here.

The errors, the JSON schema, the reference docs and the console are made from it. The one importer of pydantic.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast, dataclass_transform, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

from msgov.errors import Problem, RuleError

T = TypeVar("T")

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True, arbitrary_types_allowed=False)


def field(
    default: object = ...,
    *,
    why: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
) -> Any:  # the type is the field's own annotation, as with dataclasses.field
    """Declare a field of a rule: its default, its range, its unit, and why the default is what it is.

    A field without a default is required. Numbers are never NaN or infinite.
    """
    return Field(
        default=default,
        description=why,
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        max_length=max_length,
        pattern=pattern,
        json_schema_extra={"unit": unit} if unit else None,
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def rule(cls: type[T]) -> type[T]:
    """Make a class a rule: frozen, slotted, keyword-only; building a wrong one raises `RuleError`.

    A method `lint(self) -> Iterable[Problem]`, where there is one, checks what no single field can see.
    """
    made = pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)(cls)
    build = made.__init__

    def __init__(self: object, **values: object) -> None:  # noqa: N807  becomes the class's own
        try:
            build(self, **values)
        except ValidationError as error:
            raise _refused(made, error, prefix="", where="") from None
        check(self)

    __init__.__doc__ = build.__doc__
    made.__init__ = __init__  # type: ignore[method-assign]  # the same signature, another error
    return made  # type: ignore[return-value]  # pydantic's own type for the class it was given


def check(value: object, *, prefix: str = "", where: str = "") -> None:
    """Run the `lint` of a rule and of the rules inside it; raise `RuleError` with all that they found."""
    problems = list(_lint(value, prefix))
    if problems:
        raise RuleError(problems, where=where)


def _lint(value: object, prefix: str) -> list[Problem]:
    found: list[Problem] = []
    lint = getattr(value, "lint", None)
    if callable(lint):
        found += [Problem(join(prefix, p.path), p.value, p.allowed) for p in lint()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            found += _lint(getattr(value, each.name), join(prefix, each.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            found += _lint(inner, join(prefix, str(key)))
    return found


_adapters: dict[type[object], TypeAdapter[object]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    found = _adapters.get(kind)
    if found is None:  # built once per class: a rule class lives as long as its module
        found = _adapters[kind] = TypeAdapter(kind)
    return cast("TypeAdapter[T]", found)


def parse(kind: type[T], values: object, *, where: str = "", prefix: str = "") -> T:
    """Build a rule from a mapping (of a file, of a config centre); raise one `RuleError` that names every problem.

    `where` is the file or source for the message, `prefix` the path at which `values` stands in it.
    """
    try:
        text = json.dumps(values, default=_plain)
    except (TypeError, ValueError) as error:
        raise RuleError.at(prefix, values, f"plain data, as a file holds it: {error}", where=where) from None
    try:
        # As JSON, for there strict means "no text for a number" and still lets a mapping be a rule, a list a tuple.
        made = _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise _refused(kind, error, prefix=prefix, where=where) from None
    check(made, prefix=prefix, where=where)
    return made


def _plain(value: object) -> object:
    """Turn what JSON has no word for into what it has: a read-only mapping, a rule."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_mapping(value)
    raise TypeError(f"{type(value).__name__} is none")


def schema(kind: type[object]) -> dict[str, object]:
    """Return the JSON Schema of a rule, with units, ranges, defaults and reasons, for editors and docs."""
    return _adapter(kind).json_schema()


def as_mapping(value: object) -> dict[str, object]:
    """Return a rule as plain data, ready for a file: `parse` of it gives the same rule."""
    found = _adapter(type(value)).dump_python(value, mode="json")
    assert isinstance(found, dict)  # noqa: S101  a rule is a dataclass
    return found


def join(prefix: str, name: str) -> str:
    """Join two parts of a path with a dot."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _refused(kind: type[object], error: ValidationError, *, prefix: str, where: str) -> RuleError:
    problems = []
    for detail in error.errors(include_url=False, include_context=True):
        path = join(prefix, ".".join(str(part) for part in detail["loc"]))
        given = detail["input"]
        problems.append(Problem(path, "(missing)" if detail["type"] == "missing" else given, _allowed(kind, detail)))
    return RuleError(problems, where=where)


_SIGNS: Mapping[str, str] = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _allowed(kind: type[object], detail: ErrorDetails) -> str:
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "unknown key; known: " + ", ".join(sorted(names(kind, detail["loc"][:-1])))
    if detail["type"] == "missing":
        return "required" + _range(kind, detail["loc"])
    if detail["type"] == "finite_number":
        return "a finite number" + _range(kind, detail["loc"])
    text = detail["msg"]
    return text[:1].lower() + text[1:] + _range(kind, detail["loc"])


def names(kind: type[object], path: tuple[int | str, ...] = ()) -> list[str]:
    """Return the field names of a rule, or of the rule that stands at `path` inside it."""
    owner = _owner(kind, path)
    return [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []


def _owner(kind: object, path: tuple[int | str, ...]) -> object:
    """Find the rule that stands at a path; unions and containers are looked into, and None is where there is none."""
    found = kind
    for part in path:
        inner = getattr(found, "__pydantic_fields__", None)
        if inner is None or str(part) not in inner:
            continue  # an index, a key, or the name that pydantic gives an arm of a union
        annotation = inner[str(part)].annotation
        found = next((each for each in _parts(annotation) if dataclasses.is_dataclass(each)), None)
    return found


def _parts(annotation: object) -> list[object]:
    parts = [annotation]
    for each in get_args(annotation):
        parts += _parts(each)
    return parts


def _range(kind: type[object], path: tuple[int | str, ...]) -> str:
    """Say the allowed range, unit and default of the field at `path`, from its own declaration."""
    owner = _owner(kind, path[:-1])
    spec = getattr(owner, "__pydantic_fields__", {}).get(str(path[-1])) if path else None
    if spec is None:
        return ""
    parts = [f"{sign} {bound:g}" for meta in spec.metadata for bound, sign in _bounds(meta)]
    extra = spec.json_schema_extra
    unit = extra.get("unit", "") if isinstance(extra, dict) else ""
    text = (" (" + " and ".join(parts) + (f" {unit}" if unit else "") + ")") if parts else ""
    default = spec.default
    if isinstance(default, int | float | str | bool) and not (isinstance(default, float) and math.isnan(default)):
        text += f"; default {default}"
    return text


def _bounds(meta: object) -> list[tuple[float, str]]:
    return [(value, sign) for name, sign in _SIGNS.items() if (value := getattr(meta, name, None)) is not None]
