"""/docs: every route and every field as a page for people, made from the same description that
/openapi.json gives to machines. No script, and nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter()
METHODS = ("get", "post", "put", "patch", "delete")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root{--paper:#fbfaf7;--ink:#1d1f24;--soft:#5a606b;--rule:#d9d9d4;--mark:#1f5fbf}
@media (prefers-color-scheme:dark){:root{--paper:#15171b;--ink:#eceef2;--soft:#a7aeba;\
--rule:#3a3f48;--mark:#7fb2ff}}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem;overflow-wrap:anywhere}
p{margin:.3rem 0}small,.soft{color:var(--soft)}code{font-size:.95em}
b.method{display:inline-block;min-width:4.5rem;color:var(--mark);text-transform:uppercase}
nav ul{columns:2 18rem;padding-left:1.2rem}a{color:var(--mark)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid var(--rule)}
"""


@router.get("/docs", include_in_schema=False)
async def show_reference(request: Request) -> HTMLResponse:
    """The page."""
    page = reference_page(request.app.openapi())
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


def reference_page(description: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    routes = []
    for path, operations in description["paths"].items():
        for method in METHODS:
            if method in operations:
                routes.append((method, path, operations[method]))
    links, parts = "", ""
    for number, (method, path, operation) in enumerate(routes):
        name = f"{escape(method.upper())} {escape(path)}"
        links += f'<li><a href="#route-{number}">{name}</a></li>'
        parts += (
            f'<section id="route-{number}"><h2><b class="method">{escape(method)}</b> '
            f"<code>{escape(path)}</code></h2>{_operation(operation)}</section>"
        )
    about = description["info"]
    title = f"{escape(about['title'])} {escape(about['version'])}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        '<p>The same as a machine reads it: <a href="/openapi.json">/openapi.json</a>. Errors are '
        'JSON with one sentence. <a href="/">The studio</a> is made of these requests.</p>'
        f'<nav aria-label="Routes"><ul>{links}</ul></nav>{parts}</body></html>'
    )


def _operation(operation: Mapping[str, Any]) -> str:
    """What one route does, and what it takes."""
    text = " ".join(operation.get("description", "").split())
    parts = f"<p>{escape(text)}</p>"
    parameters = {}
    for parameter in operation.get("parameters", []):
        schema = parameter.get("schema", {}) | {"description": f"in the {parameter['in']}"}
        parameters[parameter["name"]] = schema
    if parameters:
        parts += _table(parameters)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if fields := body.get("schema", {}).get("properties"):
        parts += "<p>The body: JSON, or the parts of a form.</p>" + _table(fields)
    return parts


def _table(fields: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ""
    for name, schema in fields.items():
        kind = " | ".join(map(str, schema.get("enum", []))) or str(schema.get("type", "any"))
        default = schema.get("default")
        shown = "" if default is None else f" <small>default {escape(str(default))}</small>"
        rows += (
            f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{escape(kind)}{shown}</td>'
            f"<td>{escape(schema.get('description', ''))}</td></tr>"
        )
    return (
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">field</th>'
        '<th scope="col">value</th><th scope="col">what it is</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
