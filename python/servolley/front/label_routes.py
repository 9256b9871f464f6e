"""Labels, read and moved. No protocol has calls for it; these are ours."""

from servolley.front.calls import Call, Reply, json_reply
from servolley.front.context import ServerContext
from servolley.front.gate import Access
from servolley.front.router import Handler, Router
from servolley.repository.labels import Labels, LabelState
from servolley.repository.names import LARGEST_VERSION
from servolley.status import invalid_argument

_LABELS = r"/v2/repository/models/(?P<model>[^/]+)/labels"


class LabelRoutes:
    """Handlers over one server's context."""

    def __init__(self, context: ServerContext) -> None:
        self._labels = Labels(context.manager)

    def register(self, router: Router) -> None:
        router.add(_LABELS, {"GET": self.labels}, access=Access.ADMIN)
        changes: dict[str, Handler] = {"PUT": self.move, "POST": self.move, "DELETE": self.remove}
        router.add(_LABELS + r"/(?P<label>[^/]+)", changes, access=Access.ADMIN)

    def labels(self, call: Call) -> Reply:
        labels = self._labels.of(call.params["model"])
        return json_reply({"labels": {label: _shown(state) for label, state in labels.items()}})

    def move(self, call: Call) -> Reply:
        document = call.json_object()
        version = document.pop("version", None)
        if document:
            raise invalid_argument(f"unknown key '{next(iter(document))}': a label has a 'version'")
        if type(version) is not int or not 1 <= version <= LARGEST_VERSION:
            raise invalid_argument(f"'version' must be an integer from 1 to {LARGEST_VERSION}")
        return json_reply(_shown(self._labels.move(call.params["model"], call.params["label"], version)))

    def remove(self, call: Call) -> Reply:
        self._labels.remove(call.params["model"], call.params["label"])
        return Reply(200)


def _shown(state: LabelState) -> dict[str, int | None]:
    return {"version": state.version, "routed": state.routed}
