"""The control calls of TensorFlow Serving's REST API. Paths match in any letter case, a verb after the colon
does not."""

from typing import NoReturn

from servolley.front import tfs_answers as tfs
from servolley.front.calls import JSON, Call, Reply, error_reply, json_reply
from servolley.front.context import ServerContext
from servolley.front.router import Router
from servolley.front.signatures import Method
from servolley.status import unavailable

_MODEL = r"/v1/models/(?P<model>[^/:]+)"
_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"


class TfsRoutes:
    """Handlers over one server's context."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def register(self, router: Router) -> None:
        for pattern, handlers in (
            (r"/v1/models", {"GET": self.model_list}),
            (_MODEL + _WHICH, {"GET": self.status}),
            (_MODEL + _WHICH + "/metadata", {"GET": self.metadata}),
            # The core answers POST itself; what comes here has the wrong verb.
            (_MODEL + _WHICH + "(?-i::predict)", {"POST": self.not_reached}),
            (_MODEL + _WHICH + "(?-i::classify)", {"POST": self.classify}),
            (_MODEL + _WHICH + "(?-i::regress)", {"POST": self.regress}),
        ):
            router.add(pattern, {**handlers, "OPTIONS": self.options}, ignore_case=True)
        router.add_fallback("/v1/", self.malformed)

    def malformed(self, call: Call) -> Reply:
        if call.method == "OPTIONS":
            return self.options(call)
        return error_reply(400, f"Malformed request: {call.method} {call.path}")

    def options(self, call: Call) -> Reply:
        origin = call.header("origin") or ""
        if "http://" in origin or "https://" in origin:
            return Reply(200, b"", JSON)
        return error_reply(400, f"Malformed request: {call.method} {call.path}")

    def model_list(self, _: Call) -> Reply:
        """Ours; TensorFlow Serving has none."""
        models = self._context.manager.models.values()
        return json_reply(
            {"models": [{"name": model.name} | tfs.statuses(tfs.newest_first(model)) for model in models]}
        )

    def status(self, call: Call) -> Reply:
        return json_reply(tfs.statuses(tfs.versions_of(self._context, _which(call))))

    def metadata(self, call: Call) -> Reply:
        return json_reply(tfs.metadata_of(self._context, _which(call)))

    async def classify(self, call: Call) -> Reply:
        return await self._on_examples(call, Method.CLASSIFY)

    async def regress(self, call: Call) -> Reply:
        return await self._on_examples(call, Method.REGRESS)

    async def _on_examples(self, call: Call, method: Method) -> Reply:
        if self._context.examples is None:
            raise unavailable("Server exiting")
        encoding = call.header("content-encoding") or ""
        return Reply(200, await self._context.examples.rest(_which(call), method, call.body, encoding), JSON)

    def not_reached(self, _: Call) -> NoReturn:
        raise RuntimeError("the core did not recognise a predict call")


def _which(call: Call) -> tfs.Which:
    version = call.params.get("version")
    return tfs.Which(
        call.params["model"], None if version is None else int(version), call.params.get("label")
    )
