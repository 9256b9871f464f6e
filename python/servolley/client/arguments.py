"""The arguments of `servolley models`. Apart from what they do, which `servolley serve` need not import."""

import argparse

_DEFAULT_SERVER = "http://localhost:8000"


def add_arguments(models: argparse.ArgumentParser) -> None:
    models.formatter_class = argparse.RawDescriptionHelpFormatter
    models.description = (
        "Asks a running server. Changes need what the server wants for admin calls: its\n"
        "--admin-listen address, its token, or both."
    )
    models.epilog = "exit codes: 0 done, 1 the server refused, 2 usage, 3 no server reached"
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--server",
        default=_DEFAULT_SERVER,
        metavar="URL",
        help=f"http://HOST:PORT, https://HOST:PORT or unix:PATH ({_DEFAULT_SERVER})",
    )
    common.add_argument("--token-file", metavar="FILE", help="the admin token, where the server wants one")
    common.add_argument("--ca-file", metavar="FILE", help="who may have issued the server's certificate")
    common.add_argument("--json", action="store_true", help="print the answer as JSON")
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help_text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, parents=[common], help=help_text, description=help_text)
        if name != "list":
            parser.add_argument("model", metavar="MODEL")
        return parser

    action("list", "models, their versions and states").add_argument("model", nargs="?", metavar="MODEL")
    load = action("load", "load a model, or what has changed of it; returns when it is available")
    load.add_argument(
        "--config", metavar="FILE", help="Triton's ModelConfig in JSON, instead of what is on disk"
    )
    action("unload", "unload a model")
    label = action("label", "show labels, or move one to a version; until model.toml says otherwise")
    label.add_argument("label", nargs="?", metavar="LABEL")
    label.add_argument("to_version", nargs="?", type=int, metavar="VERSION")
    label.add_argument("--remove", action="store_true", help="take the label away")
    split = action("split", "split the requests that name no version by weight")
    split.add_argument("shares", nargs="+", metavar="VERSION=WEIGHT")
    traffic = action("traffic", "show where requests go; or end a canary")
    traffic.add_argument("change", nargs="?", choices=("promote", "rollback", "reset"))
