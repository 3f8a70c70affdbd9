"""The web page and the API's page, with the npm packages that they use; nothing is loaded from other servers."""

from __future__ import annotations

import secrets
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).resolve().parent / "web"
_POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; "
    "img-src 'self' blob: data:; connect-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def add(app: FastAPI, node_modules: Path | None) -> None:
    """node_modules: the folder of npm's packages; None: the one in serving/web."""
    packages = node_modules or WEB / "node_modules"
    html = (WEB / "index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(
            html.replace("NONCE", nonce), headers={"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        )

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return FileResponse(WEB / "page.js", media_type="text/javascript")

    for name in ("three", "swagger-ui-dist"):
        if (packages / name).is_dir():  # without it the page shows pictures instead of the model
            app.mount(f"/node_modules/{name}", StaticFiles(directory=packages / name, follow_symlink=False), name=name)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        if not (packages / "swagger-ui-dist").is_dir():
            return HTMLResponse(_NO_SWAGGER)
        place = "node_modules/swagger-ui-dist"
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: API",
            swagger_js_url=f"{place}/swagger-ui-bundle.js",
            swagger_css_url=f"{place}/swagger-ui.css",
            swagger_favicon_url=f"{place}/favicon-32x32.png",
        )


_NO_SWAGGER = """<!doctype html><meta charset="utf-8"><title>API</title><body style="font-family: sans-serif">
<p>The description of the API is <a href="openapi.json">openapi.json</a>. To read it here, run
<code>npm install --prefix serving/web</code> on the server and start it again.</p>"""
