"""``manage.py models list|add|remote|set-key|load|unload|scan|promote|enable|disable|default|delete``."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from registry import editing, listing, services
from registry.backends import services as backends
from registry.command import Action, OperatorCommand
from registry.errors import InvalidRequest
from registry.models import Replica, Version
from registry.presentation import promotion


class Command(OperatorCommand):
    help = "List, add, load, unload, promote, enable, disable and delete models; choose the default; scan for them."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="COMMAND")
        listed = commands.add_parser("list", help="show all models, and why some can't be served")
        listed.add_argument("--json", action="store_true", help="one JSON object a line")
        add = commands.add_parser("add", help="register a GGUF as a model, or as a new version of one")
        add.add_argument("id")
        add.add_argument("path", help="a file or a folder below a models directory; relative to here")
        add.add_argument("--model-version", metavar="X.Y.Z", help="1.0.0 if absent")
        add.add_argument("--display-name")
        add.add_argument("--capability", action="append", help="beyond what the GGUF says, such as arabic_nlp")
        add.add_argument("--preload", action="store_true", default=None, help="load at start and keep loaded")
        remote = commands.add_parser("remote", help="register what an OpenAI-compatible URL serves as a model")
        remote.add_argument("id")
        remote.add_argument("--url", required=True, help="what its paths follow, such as https://api.example.com/v1")
        remote.add_argument("--model", required=True, help="how it is called there")
        remote.add_argument("--api-key-file", metavar="FILE", help="a file that holds its API key; -: standard input")
        remote.add_argument("--model-version", metavar="X.Y.Z", help="1.0.0 if absent")
        remote.add_argument("--display-name")
        remote.add_argument(
            "--capability", action="append", help="all that it can do; chat, completion and tools if absent"
        )
        remote.add_argument("--context-length", type=int, help="tokens")
        key = commands.add_parser("set-key", help="give a backend elsewhere another API key")
        key.add_argument("id", help="<id> or <id>@<version>")
        key.add_argument("--api-key-file", metavar="FILE", required=True, help="-: standard input; empty: none is sent")
        for name, help_text in (
            ("load", "load a model and keep it loaded"),
            ("unload", "unload it until it is asked for"),
        ):
            command = commands.add_parser(name, help=help_text)
            command.add_argument("id", help="<id> or <id>@<version>")
            command.add_argument("--node", help="every node if absent")
        commands.add_parser("scan", help="look through the models directories now")
        promote = commands.add_parser("promote", help="make a version the one that the bare id means")
        promote.add_argument("id", help="<id>@<version>")
        for name, help_text in (
            ("enable", "let a model answer requests"),
            ("disable", "let it answer none; running requests finish"),
            ("default", "let it answer requests that name no model"),
        ):
            commands.add_parser(name, help=help_text).add_argument("id")
        delete = commands.add_parser("delete", help="forget a model, or a version, whose files are gone")
        delete.add_argument("id", help="<id> or <id>@<version>")

    def actions(self) -> Mapping[str, Action]:
        return {
            "list": self._list,
            "add": self._add,
            "remote": self._remote,
            "set-key": self._set_key,
            "load": self._load,
            "unload": self._unload,
            "scan": self._scan,
            "promote": self._promote,
            "enable": self._enable,
            "disable": self._disable,
            "default": self._default,
            "delete": self._delete,
        }

    def _list(self, options: dict[str, Any]) -> None:
        models = listing.models_list()
        if options["json"]:
            for model in models:
                self.stdout.write(json.dumps(model, default=str))
            return
        if not models:
            folders = ", ".join(map(str, settings.NOPENAI.models_dirs))
            self.stderr.write(f"No model is known yet: put a GGUF into {folders}. A running server lists it at once.")
            return
        self.table(
            [
                ("ID", "VERSION", "HEALTH", "STATE", "PARAMETERS", "QUANTIZATION", "SIZE MB", "REMARKS"),
                *map(_row, models),
            ]
        )

    def _add(self, options: dict[str, Any]) -> None:
        version = services.model_register(
            name=options["id"],
            path=str(Path.cwd() / options["path"]),
            models_dirs=settings.NOPENAI.models_dirs,
            version=options["model_version"],
            display_name=options["display_name"],
            capabilities=options["capability"],
            preload=options["preload"],
        )
        self.stdout.write(f"{version} is registered: {version.path}")
        if version.model.promoted_id != version.pk:
            self._tell_promotion(version)

    def _remote(self, options: dict[str, Any]) -> None:
        version = backends.backend_register(
            name=options["id"],
            url=options["url"],
            model=options["model"],
            api_key=_secret(options["api_key_file"]),
            version=options["model_version"],
            display_name=options["display_name"],
            capabilities=options["capability"],
            context_length=options["context_length"],
        )
        self.stdout.write(f"{version} is registered: {version.backend}")
        self._tell_health(version)
        if version.model.promoted_id != version.pk:
            self._tell_promotion(version)

    def _set_key(self, options: dict[str, Any]) -> None:
        name, _, number = options["id"].partition("@")
        version = backends.backend_set_key(name=name, number=number or None, api_key=_secret(options["api_key_file"]))
        self.stdout.write(f"The API key of {version} is set.")
        self._tell_health(version)

    def _tell_health(self, version: Version) -> None:
        self.stdout.write(f"It is {version.health}" + (f": {version.health_reason}." if version.health_reason else "."))

    def _tell_promotion(self, version: Version) -> None:
        self.stdout.write(
            f"'{version.model.name}' still means {version.model.promoted}. To change that: "
            f"{promotion(version.model.name, version.number)}"
        )

    def _load(self, options: dict[str, Any]) -> None:
        self._desire(options, Replica.Desired.RUNNING, "load and keep")

    def _unload(self, options: dict[str, Any]) -> None:
        self._desire(options, Replica.Desired.STOPPED, "unload")

    def _desire(self, options: dict[str, Any], desired: Replica.Desired, verb: str) -> None:
        name, _, number = options["id"].partition("@")
        version = listing.version_find(name=name, number=number or None)
        asked = services.replica_desire(node=options["node"], version_pk=version.pk, desired=desired)
        if asked:
            self.stdout.write(f"Asked {asked} node{'s' if asked > 1 else ''} to {verb} {version}.")
        else:
            self.stdout.write(f"Nothing to do: the nodes are asked to {verb} {version} already.")

    def _scan(self, options: dict[str, Any]) -> None:
        report = services.models_scan(
            models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
        )
        self.stdout.write(f"{report.files} GGUF files in {report.seconds:.2f} s.")
        for label, names in (
            ("New", report.discovered),
            ("New version", report.versions),
            ("Vanished", report.missing),
        ):
            for name in names:
                self.stdout.write(f"{label}: {name}")
        for name, reason in report.unusable.items():
            self.stdout.write(f"Can't be used: {name}: {reason}")

    def _promote(self, options: dict[str, Any]) -> None:
        name, at, number = options["id"].partition("@")
        if not at:
            known = ", ".join(version.number for version in listing.versions_list(name=name)) or "none"
            raise InvalidRequest(f"Say which version of '{name}', as {name}@<version>; it has: {known}.")
        version = services.version_promote(name=name, number=number)
        self.stdout.write(f"'{version.model.name}' now means {version}.")

    def _enable(self, options: dict[str, Any]) -> None:
        model = services.model_enable(name=options["id"], enabled=True)
        self.stdout.write(f"'{model.name}' is enabled.")

    def _disable(self, options: dict[str, Any]) -> None:
        model = services.model_enable(name=options["id"], enabled=False)
        self.stdout.write(f"'{model.name}' is disabled: it answers no request.")

    def _default(self, options: dict[str, Any]) -> None:
        model = services.model_set_default(name=options["id"])
        self.stdout.write(f"'{model.name}' answers requests that name no model.")

    def _delete(self, options: dict[str, Any]) -> None:
        name, at, number = options["id"].partition("@")
        if at:
            editing.version_forget(name=name, number=number)
        else:
            editing.model_forget(name=name)
        self.stdout.write(f"'{options['id']}' is deleted.")


def _secret(file: str | None) -> str:
    """From a file, not an argument: those stand in the list of processes and in the shell's history."""
    if file is None:
        return ""
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise InvalidRequest(f"{file} can't be read: {fault}", param="api_key") from fault


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["id"],
        model["version"] or "-",
        model["health_status"] if model["enabled"] else "disabled",
        model["state"],
        model["parameter_count"] or "-",
        model["quantization"] or "-",
        f"{model['size_bytes'] / 1e6:,.1f}",
        "; ".join(_remarks(model)),
    )


def _remarks(model: dict[str, Any]) -> Iterable[str]:
    if model["is_default"]:
        yield "default"
    if model["preload"]:
        yield "preloaded"
    if model["backend"]:
        yield f"at {model['backend']}"
    if model["alias_of"]:
        yield f"another name of {model['alias_of']}"
    if model["health_reason"]:
        yield model["health_reason"]
