"""A report as one HTML file: sections with their tables and pictures inside the file, so that it opens without a
network. What the sections say is decided by the callers."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from adhmr.evaluation.sections import Part, Section, Table

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1300px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}tr.change td{color:#666;font-size:90%}
figure{margin:1em 0;overflow-x:auto}figcaption,.note{font-size:13px;color:#555}img{display:block;max-width:none}"""
MEDIA = {"png": "image/png", "jpg": "image/jpeg"}


def html_page(title: str, sections: Sequence[Section]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body += [f"<h2>{html.escape(section.title)}</h2>"]
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        body += [_part(part) for part in section.parts]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return page + f"<style>{STYLE}</style><body>{''.join(body)}</body></html>"


def _part(part: Part) -> str:
    heading = f"<h3>{html.escape(part.title[:1].upper() + part.title[1:])}</h3>"
    note = f'<p class="note">{html.escape(part.note)}</p>' if part.note else ""
    if isinstance(part, Table):
        return heading + _table(part.rows) + note
    source = f"data:{MEDIA[part.ending]};base64,{base64.b64encode(part.draw()).decode()}"
    return f'{heading}<figure><img src="{source}" alt="{html.escape(part.title)}"></figure>{note}'


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = ""
    for row in rows[1:]:
        kind = ' class="change"' if row[0].startswith("  ") else ""
        body += f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"
