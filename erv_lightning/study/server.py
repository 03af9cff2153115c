"""The pages of the human study: consent, link, clips, thanks. Knows no SQL and no statistics.

Raters are known by the token in their link alone: no cookie, no account, no address is kept. Every path below a token
reaches this rater's own pages and nothing else. The web libraries are an extra: they are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from erv_lightning.study.forms import MAX_COMMENT, SIDES, TIE, UNCLEAR, FormError, read_answer, read_form
from erv_lightning.study.guards import Guard
from erv_lightning.study.plan import Task
from erv_lightning.study.store import Rater, Recorded, Store

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_SAID = {
    404: "There is no such page. If you follow your personal link, check that it is complete.",
    405: "There is no such page. If you follow your personal link, check that it is complete.",
    409: "You have already answered this page, and the first answer counts. You can go on with the next one.",
    503: "Enough people have taken part, so no more answers are needed. Thank you for your interest.",
}


class NotFound(Exception):
    """There is no such page, or it is not this rater's."""


class Pages:
    """The templates with what all of them need."""

    def __init__(self, store: Store) -> None:
        import jinja2

        self.store = store
        self.templates = jinja2.Environment(
            loader=jinja2.PackageLoader("erv_lightning.study"), autoescape=True, undefined=jinja2.StrictUndefined
        )

    def show(self, name: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        from starlette.responses import HTMLResponse

        text = self.templates.get_template(f"{name}.html").render(plan=self.store.plan, **values)
        return HTMLResponse(text, status)

    def message(self, status: int, link: str | None = None) -> Response:
        """A page that says what went wrong, and where to go on."""
        return self.show(
            "message", status, said=_SAID.get(status, "Something went wrong. Please try again."), link=link
        )

    def consent(self) -> Response:
        """The first page, or that nobody is needed any more."""
        return self.show("consent", error="") if self.store.wanted() else self.message(503)

    def enrol(self, body: bytes) -> Response:
        """Takes in a rater who agrees."""
        try:
            if read_form(body).get("agree") != "yes":
                raise FormError("Please tick the box if you agree; otherwise you can simply close this page.")
        except FormError as error:
            return self.show("consent", 422, error=str(error))
        token = self.store.enrol() if self.store.wanted() else None
        return self.message(503) if token is None else _go(f"{_path(token)}/welcome")

    def rater(self, token: str) -> Rater:
        """Whose link it is; nobody's is not found."""
        rater = self.store.rater(token)
        if rater is None:
            raise NotFound
        return rater

    def welcome(self, token: str) -> Response:
        """The personal link, and how it goes."""
        return self.show("welcome", link=_path(token), answered=self.rater(token).answered)

    def current(self, token: str) -> Response:
        """The clip that a rater has before them, or thanks."""
        rater = self.rater(token)
        task = self.store.task(rater.number)
        if task is None:
            return self.show("thanks", code=rater.code if rater.answered else "", link=_path(token))
        return self.item(token, rater, task)

    def item(
        self, token: str, rater: Rater, task: Task, error: str = "", chosen: dict[str, str] | None = None
    ) -> Response:
        """A clip with two explanations; again with what was chosen, where something is missing."""
        return self.show(
            "item",
            422 if error else 200,
            link=_path(token),
            page=f"{_path(token)}/a/{task.key}",
            number=rater.answered + 1,
            texts=dict(zip(SIDES, task.texts, strict=True)),
            choices=[*enumerate(task.item.labels), (UNCLEAR, "none, or unclear")],
            error=error,
            chosen=chosen or {},
            max_comment=MAX_COMMENT,
            tie=TIE,
        )

    def answer(self, token: str, key: str, body: bytes) -> Response:
        """Keeps an answer, then goes on; what is answered already stays as it is."""
        rater = self.rater(token)
        task = self.store.find(rater.number, key)
        if task is None:
            raise NotFound
        form: dict[str, str] = {}
        try:
            form = read_form(body)
            answer = read_answer(form, len(task.item.labels), self.store.plan.allow_tie)
        except FormError as error:
            return self.item(token, rater, task, str(error), form)
        recorded = self.store.record(rater.number, key, answer)
        if recorded is Recorded.UNKNOWN:  # deleted this moment
            raise NotFound
        return self.message(409, _path(token)) if recorded is Recorded.DIFFERS else _go(_path(token))

    def clip(self, token: str, key: str) -> Response:
        """The clip of a rater's page, whole or a range of its bytes."""
        from starlette.responses import FileResponse

        task = self.store.find(self.rater(token).number, key)
        if task is None or not Path(task.item.clip).is_file():
            raise NotFound
        return FileResponse(task.item.clip, headers={"Cache-Control": "private, max-age=3600"})


def make_app(store: Store) -> Guard:
    """The application of a study, behind its guard."""
    from fastapi import FastAPI
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    pages = Pages(store)

    def shown(page: Callable[..., Response]) -> Callable[[Request], Response]:
        return lambda request: page(**request.path_params)

    def sent(page: Callable[..., Response]) -> Any:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(page, **request.path_params, body=await request.body())

        return endpoint

    def failed(request: Request, error: Exception) -> Response:
        return pages.message(error.status_code if isinstance(error, HTTPException) else 404)

    routes = [
        Route("/", shown(pages.consent)),
        Route("/consent", sent(pages.enrol), methods=["POST"]),
        Route("/r/{token}", shown(pages.current)),
        Route("/r/{token}/welcome", shown(pages.welcome)),
        Route("/r/{token}/a/{key}", sent(pages.answer), methods=["POST"]),
        Route("/r/{token}/a/{key}/clip", shown(pages.clip)),
        Mount("/static", StaticFiles(directory=str(files("erv_lightning.study") / "static"))),
    ]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, routes=routes)
    app.add_exception_handler(HTTPException, failed)
    app.add_exception_handler(NotFound, failed)
    return Guard(app)


def _path(token: str) -> str:
    return f"/r/{quote(token, safe='')}"


def _go(path: str) -> Response:
    from starlette.responses import RedirectResponse

    return RedirectResponse(path, 303)
