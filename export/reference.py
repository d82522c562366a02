"""The pages of `docs/reference`, written from the code by `make docs`. A test fails where a page is out of date.

What a setting means is the comment on its line, what a section is for the docstring of its dataclass: nothing is said
twice. Source is read, not imported, so that a page does not depend on which extras are installed.
"""

from __future__ import annotations

import ast
import datetime as dt
import io
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from features.configuration import SECTIONS
from features.contracts import FEATURES, PROVENANCE, PUBLISHED, RAW, Column, Table
from features.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("features", "models", "export", "dags")
_WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "`true` or `false`",
    "dt.date": "date",
    "None": "left out",
}


@dataclass(frozen=True)
class Comments:
    """The comments of a module by line, and the lines that hold nothing else."""

    by_line: Mapping[int, str]
    alone: frozenset[int]

    def around(self, field: ast.AnnAssign) -> tuple[str, str]:
        """The comment in the lines above a field, and the one beside it; empty where there is none.

        The one beside it says what the field is. Without it the one above does, else that is a heading.
        """
        first = field.lineno
        while first - 1 in self.alone:
            first -= 1
        above = " ".join(self.by_line[line] for line in range(first, field.lineno))
        return above, self.by_line.get(field.end_lineno or field.lineno, "")


@dataclass(frozen=True)
class Source:
    """What the pages take from the code: classes, aliases of `Literal`, and which class each section is read into."""

    classes: Mapping[str, tuple[Path, ast.ClassDef]]
    literals: Mapping[str, ast.expr]
    sections: Mapping[str, str]
    named: Mapping[str, tuple[object, ...]]  # by section: whole configurations that the setting `named` chooses from
    comments: Mapping[Path, Comments]


def read_source(root: Path = ROOT) -> Source:
    """Read every module below `root`'s packages. Raises ValueError if a section is read into no dataclass."""
    classes: dict[str, tuple[Path, ast.ClassDef]] = {}
    literals: dict[str, ast.expr] = {}
    sections: dict[str, str] = {}
    choices: dict[str, str] = {}
    dictionaries: dict[tuple[Path, str], tuple[object, ...]] = {}
    comments: dict[Path, Comments] = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        comments[path] = _comments(text)
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.ClassDef(name=name):
                    classes.setdefault(name, (path, node))
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript(value=ast.Name(id="Literal"))):
                    literals[name] = node.value
                case ast.Call(func=ast.Attribute(attr="section"), args=[ast.Constant(value=str(name)), kind]):
                    sections[name] = ast.unparse(kind).split(".")[-1]
                    choices.update((name, ast.unparse(keyword.value)) for keyword in node.keywords)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)):
                    dictionaries[path, name] = tuple(key.value for key in keys if isinstance(key, ast.Constant))
    if unread := sorted(set(SECTIONS) - set(sections)):
        raise ValueError(f"expected every section to be read into a dataclass, got none for {', '.join(unread)}")
    # Named configurations stand in the module of their class.
    named = {section: dictionaries[classes[sections[section]][0], name] for section, name in choices.items()}
    return Source(classes, literals, sections, named, comments)


def configuration_page(source: Source) -> str:
    """Every section and setting of attractor.toml. Raises ValueError naming a setting that no comment explains."""
    parts = [
        "# Configuration",
        "<!-- written by `make docs` -->",
        "Every section and setting of `attractor.toml`, from the dataclasses that they are read into. A setting that "
        "is left out takes its default. Unknown sections and settings are refused.",
        "One key stands before all sections: `state`, the directory of everything that Attractor writes, relative to "
        "the file.",
    ]
    for section in SECTIONS:
        parts += _class_part(source, source.sections[section], f"[{section}]", set())
        if section in source.named:
            names = ", ".join(f"`{name}`" for name in source.named[section])
            parts.append(f"`named` may be one of {names}: a setting that is left out takes its value from there.")
    return "\n\n".join(parts) + "\n"


def _class_part(source: Source, name: str, title: str, seen: set[str]) -> Iterator[str]:
    path, node = source.classes[name]
    seen.add(name)
    yield f"## `{title}`"
    yield f"{_one_line(ast.get_docstring(node) or '')} [`{name}`](../../{path.relative_to(ROOT)})"
    fields = [field for field in node.body if isinstance(field, ast.AnnAssign) and not _is_class_variable(field)]
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        above, beside = source.comments[path].around(field)
        if above and beside:
            rows.append(f"| *{_cell(above)}* | | | |")
        meaning = beside or above
        if not meaning:
            raise ValueError(f"{path}:{field.lineno}: expected a comment that says what {ast.unparse(field.target)} is")
        kind = _type(field.annotation, source)
        rows.append(f"| `{ast.unparse(field.target)}` | {kind} | {_default(field.value)} | {_cell(meaning)} |")
    yield "\n".join(rows)
    for field in fields:
        for used in ast.walk(field.annotation):
            if isinstance(used, ast.Name) and used.id in source.classes and used.id not in seen:
                yield from _class_part(source, used.id, f"{title} {ast.unparse(field.target)}: {used.id}", seen)


def contracts_page() -> str:
    """Every table: grain, key, columns with their types, rules and meanings."""
    parts = [
        "# Contracts",
        "<!-- written by `make docs` -->",
        "Every table that Attractor reads, builds and publishes, from "
        "[`features/contracts.py`](../../features/contracts.py). Types are Arrow's.",
        *_tables(
            "Raw tables",
            RAW,
            "What a source hands over. Landing checks every row; lists hold no nulls, and vectors, all of one length, "
            "nothing that is not finite.",
        ),
        *_tables(
            "Feature tables",
            FEATURES,
            "What a night builds, one Parquet partition a date, registered in Feast. Checked when they are written: "
            "rules, and keys that rise.",
        ),
        *_tables(
            "Published tables",
            PUBLISHED,
            "What a release serves: `<release>/<table>/rows.arrow`, sorted by key. Types, nulls and the length of "
            "vectors are checked at staging, all else by the gates of [the audit](../audit.md). Columns marked "
            "*release* have one value in a whole release: it stands in its manifest or pointer, and is served with "
            "every row.",
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _tables(title: str, tables: Mapping[str, Table], about: str) -> Iterator[str]:
    yield f"## {title}"
    yield about
    for table in tables.values():
        key = ", ".join(f"`{name}`" for name in table.key) or "none: rows may repeat"
        yield f"### `{table.name}`"
        yield f"{table.grain[0].upper()}{table.grain[1:]}. Key: {key}."
        rows = ["| column | type | rules | meaning |", "|---|---|---|---|"]
        rows += [_column_row(column, "; ".join(_rules(column))) for column in table.columns]
        rows += [_column_row(column, "*release*") for column in PROVENANCE.get(table.name, ())]
        yield "\n".join(rows)


def _column_row(column: Column, rules: str) -> str:
    return f"| `{column.name}` | `{str(column.type).replace('item: ', '')}` | {rules} | {_cell(column.meaning)} |"


def _rules(column: Column) -> Iterator[str]:
    yield "may be null" if column.nullable else "not null"
    if column.at_least is not None:
        yield f"at least {column.at_least}"
    if column.max_length is not None:
        yield f"at most {column.max_length} characters"
    if column.references is not None:
        yield f"one of `{column.references}`"
    if column.differs_from is not None:
        yield f"another value than `{column.differs_from}`"


def _comments(text: str) -> Comments:
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    return Comments(
        {token.start[0]: token.string.lstrip("# ") for token in found},
        frozenset(token.start[0] for token in found if token.line.lstrip().startswith("#")),
    )


def _is_class_variable(field: ast.AnnAssign) -> bool:
    return ast.unparse(field.annotation).startswith("ClassVar")


def _type(annotation: ast.expr, source: Source) -> str:
    match annotation:
        case ast.Name(id=name) if name in source.literals:
            return _type(source.literals[name], source)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{_type(left, source)}, or {_type(right, source)}"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return " or ".join(f"`{_toml(value)}`" for value in values)
        case ast.Subscript(value=ast.Name(id="Mapping"), slice=ast.Tuple(elts=[_, value])):
            return f"table of {_type(value, source)}"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[first, *_])):
            return f"list of {_type(first, source)}"
    told = ast.unparse(annotation)
    return _WORDS.get(told, f"`{told}`")


def _default(value: ast.expr | None) -> str:
    match value:
        case None:
            return "none: must be there"
        case ast.Constant(value=None):
            return "left out"
        case ast.Call(func=ast.Name(id="field")):
            return "empty"
        case ast.Call(func=ast.Attribute(attr="date"), args=day):
            return f"`{dt.date(*map(ast.literal_eval, day))}`"
    return f"`{_toml(value)}`"


def _toml(value: ast.expr) -> str:
    told = ast.unparse(value).replace("'", '"')
    return {"True": "true", "False": "false"}.get(told, told)


def _one_line(docstring: str) -> str:
    return " ".join(docstring.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    return {"configuration.md": configuration_page(read_source()), "contracts.md": contracts_page()}


if __name__ == "__main__":
    for name, page in pages().items():
        write_text(Path(sys.argv[1]) / name, page)
