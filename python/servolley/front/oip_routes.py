"""The control calls of the Open Inference Protocol, as Triton extends and clients use them."""

from typing import Any, NoReturn

from servolley.front import oip_answers as oip
from servolley.front.calls import Call, Reply, error_reply, json_reply
from servolley.front.context import ServerContext
from servolley.front.gate import Access
from servolley.front.router import Router
from servolley.front.shared_memory import cuda_registered, handle_in_json, may_register, registered
from servolley.status import invalid_argument

_MODEL = r"/v2/models/(?P<model>[^/]+)"
_VERSION = r"(?:/versions/(?P<version>[0-9]+))?"
_REPOSITORY = r"/v2/repository(?:/(?P<repository>[^/]+))?"

_EMPTY = Reply(200)


class OipRoutes:
    """Handlers over one server's context."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def register(self, router: Router) -> None:
        router.add(r"/v2/health/live", {"GET": self.live})
        router.add(r"/v2/health/ready", {"GET": self.ready})
        router.add(r"/v2", {"GET": self.server_metadata})
        router.add(r"/v2/models", {"GET": self.model_list})
        router.add(r"/v2/models/stats", {"GET": self.all_statistics})
        router.add(_MODEL + _VERSION, {"GET": self.model_metadata})
        router.add(_MODEL + _VERSION + "/ready", {"GET": self.model_ready})
        router.add(_MODEL + _VERSION + "/config", {"GET": self.model_config})
        router.add(_MODEL + _VERSION + "/stats", {"GET": self.model_statistics})
        # The core answers POST itself; what comes here has the wrong verb.
        router.add(_MODEL + _VERSION + "/infer", {"POST": self.not_reached})
        self._register_repository(router)
        traced = r"/v2(?:/models/(?P<model>[^/]+))?"
        router.add(
            traced + "/trace/setting",
            {"GET": self.trace_settings, "POST": self.change_trace_settings},
            access=Access.ADMIN,
        )
        router.add(
            r"/v2/logging",
            {"GET": self.log_settings, "POST": self.change_log_settings},
            access=Access.ADMIN,
        )
        self._register_shared_memory(router)
        router.add(_MODEL + _VERSION + r"/generate(?:_stream)?", {"POST": self.generate})

    def _register_repository(self, router: Router) -> None:
        """Whatever is below this path changes the server, or tells how."""
        router.add(_REPOSITORY + "/index", {"POST": self.index}, access=Access.INSIGHT)
        model = _REPOSITORY + r"/models/(?P<model>[^/]+)"
        router.add(model + "/load", {"POST": self.load}, access=Access.ADMIN)
        router.add(model + "/unload", {"POST": self.unload}, access=Access.ADMIN)

    def _register_shared_memory(self, router: Router) -> None:
        region = r"/region/(?P<region>[^/]+)"
        path = r"/v2/systemsharedmemory"
        router.add(rf"{path}(?:{region})?/status", {"GET": self.shared_memory_status})
        router.add(rf"{path}{region}/register", {"POST": self.register_shared_memory})
        router.add(rf"{path}(?:{region})?/unregister", {"POST": self.unregister_shared_memory})
        path = r"/v2/cudasharedmemory"
        router.add(rf"{path}(?:{region})?/status", {"GET": self.cuda_shared_memory_status})
        router.add(rf"{path}{region}/register", {"POST": self.register_cuda_shared_memory})
        router.add(rf"{path}(?:{region})?/unregister", {"POST": self.unregister_cuda_shared_memory})

    def live(self, _: Call) -> Reply:
        return error_reply(503, "Server exiting") if self._context.draining else _EMPTY

    def ready(self, _: Call) -> Reply:
        return _EMPTY if self._context.ready else error_reply(503, "Server not ready")

    def server_metadata(self, _: Call) -> Reply:
        return json_reply(oip.server_metadata(self._context))

    def model_list(self, _: Call) -> Reply:
        return json_reply(
            {
                "models": [
                    {
                        "name": model.name,
                        "versions": [str(version) for version in model.available()],
                        "ready": bool(model.available()),
                        "labels": model.labels,
                    }
                    for model in self._context.manager.models.values()
                ]
            }
        )

    def model_metadata(self, call: Call) -> Reply:
        return json_reply(oip.model_metadata(self._context, *_which(call)))

    def model_ready(self, call: Call) -> Reply:
        ready = oip.model_ready(self._context, *_which(call))
        return _EMPTY if ready else error_reply(503, "Model version not ready")

    def model_config(self, call: Call) -> Reply:
        return json_reply(oip.model_config(self._context, *_which(call)))

    def model_statistics(self, call: Call) -> Reply:
        return json_reply(oip.model_statistics(self._context, *_which(call)))

    def all_statistics(self, _: Call) -> Reply:
        return json_reply(oip.all_statistics(self._context))

    async def index(self, call: Call) -> Reply:
        """The repository's name is accepted and ignored: there is one."""
        only_ready = call.json_object().get("ready", False)
        if not isinstance(only_ready, bool):
            raise invalid_argument("'ready' must be a boolean")
        return json_reply(await oip.repository_index(self._context, only_ready=only_ready))

    async def load(self, call: Call) -> Reply:
        parameters = self._parameters(call)
        await self._context.control.load(call.params["model"], parameters)
        return _EMPTY

    async def unload(self, call: Call) -> Reply:
        parameters = self._parameters(call)
        await self._context.control.unload(call.params["model"], parameters)
        return _EMPTY

    def _parameters(self, call: Call) -> dict[str, Any]:
        if "repository" in call.params:
            raise oip.foreign_repository()
        parameters = call.json_object().get("parameters", {})
        if not isinstance(parameters, dict):
            raise invalid_argument("'parameters' must be a JSON object")
        return parameters

    def shared_memory_status(self, call: Call) -> Reply:
        return json_reply(registered(self._context.shared_memory, call.params.get("region")))

    async def register_shared_memory(self, call: Call) -> Reply:
        memory = may_register(self._context.shared_memory)
        document = call.json_object()
        if "key" not in document or "byte_size" not in document:
            raise invalid_argument("a shared memory region needs 'key' and 'byte_size'")
        await memory.register(
            call.params["region"], document["key"], document.get("offset", 0), document["byte_size"]
        )
        return _EMPTY

    def unregister_shared_memory(self, call: Call) -> Reply:
        may_register(self._context.shared_memory).unregister(call.params.get("region"))
        return _EMPTY

    def cuda_shared_memory_status(self, call: Call) -> Reply:
        return json_reply(cuda_registered(self._context.shared_memory, call.params.get("region")))

    async def register_cuda_shared_memory(self, call: Call) -> Reply:
        memory = may_register(self._context.shared_memory)
        document = call.json_object()
        if not {"raw_handle", "device_id", "byte_size"} <= document.keys():
            raise invalid_argument(
                "a CUDA shared memory region needs 'raw_handle', 'device_id' and 'byte_size'"
            )
        handle = handle_in_json(document["raw_handle"])
        await memory.register_cuda(
            call.params["region"], handle, document["device_id"], document["byte_size"]
        )
        return _EMPTY

    def unregister_cuda_shared_memory(self, call: Call) -> Reply:
        may_register(self._context.shared_memory).unregister_cuda(call.params.get("region"))
        return _EMPTY

    def log_settings(self, _: Call) -> Reply:
        return json_reply(oip.logging_settings(self._context, {}))

    def change_log_settings(self, call: Call) -> Reply:
        return json_reply(oip.logging_settings(self._context, call.json_object()))

    def trace_settings(self, call: Call) -> Reply:
        return json_reply(oip.trace_settings(self._context, call.params.get("model"), {}))

    def change_trace_settings(self, call: Call) -> Reply:
        return json_reply(oip.trace_settings(self._context, call.params.get("model"), call.json_object()))

    def generate(self, _: Call) -> NoReturn:
        oip.refuse("the generate extension")

    def not_reached(self, _: Call) -> NoReturn:
        raise RuntimeError("the core did not recognise an inference call")


def _which(call: Call) -> tuple[str, str | None]:
    return call.params["model"], call.params.get("version")
