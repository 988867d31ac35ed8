"""`ground model`: keys, signed lists, and models that go up the link."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ground.show import count, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from ground.link import Link, Window

    OpenLink = Callable[[argparse.Namespace, Window | None], Link]

WORK_LEFT = 3
EXAMPLES = """ground model keys keys --root-keys 3 --root-threshold 2
ground model sign runs/best/model --keys keys
ground model push runs/best/model http://satellite:8000 --keys keys --window 8m --token-file uplink.token
ground model ls http://satellite:8000"""


def add_model(commands: Any, add_link: Callable[..., None], seconds: Any, size_of: Any, open_link: OpenLink) -> None:
    """Adds the command to the parser's commands.

    Args:
        commands: of `ground`.
        add_link: adds the options of a link.
        seconds: reads a length of time.
        size_of: reads a number of bytes.
        open_link: opens the link that options name.
    """
    # What the options of a link need is handed in: ground.cli imports this module, so it cannot be imported here.
    model = commands.add_parser("model", help="send models up: keys, sign, withdraw, push, ls")
    model.set_defaults(open_link=open_link)
    verbs = model.add_subparsers(required=True, metavar="VERB")
    keys = verbs.add_parser("keys", help="make keys and the root of trust that names them")
    keys.add_argument("keys", type=Path, metavar="FOLDER", help="new folder of root.json and private/NAME.pem")
    # Two of three root keys: one may be lost, and one that is stolen signs nothing.
    for role, number, threshold in (("root", 3, 2), ("model", 2, 1)):
        keys.add_argument(f"--{role}-keys", type=_number, default=number, help=f"keys (default: {number})")
        keys.add_argument(
            f"--{role}-threshold", type=_number, default=threshold, help=f"how many sign (default: {threshold})"
        )
    keys.add_argument(
        "--replace", action="append", default=[], metavar="NAME", help="new key in place of this one, like models-1"
    )
    keys.add_argument("--days", type=_number, default=7300, help="until the root expires (default: 7300)")
    keys.set_defaults(command=_keys)
    for verb, help_text in (("sign", "put a model on the signed list"), ("withdraw", "take a model off the list")):
        sign = verbs.add_parser(verb, help=help_text)
        sign.add_argument("folder", type=Path, metavar="FOLDER", help="of the model: manifest.json and its files")
        sign.add_argument("--keys", type=Path, required=True, help="folder of `ground model keys`")
        sign.add_argument(
            "--key", action="append", type=Path, default=[], metavar="FILE", help="private key (default: all in KEYS)"
        )
        sign.add_argument("--days", type=_number, default=3650, help="until the list expires (default: 3650)")
        sign.set_defaults(command=_sign if verb == "sign" else _withdraw)
    push = verbs.add_parser(
        "push", help="one pass: what the satellite lacks of a signed model",
        description="Sends what the satellite lacks of a signed model. Files are told by their digests, so of a model "
        "with a new or retrained head go the head's own files and the manifest: name the model's folder all the same.",
    )  # fmt: skip
    push.add_argument("folder", type=Path, metavar="FOLDER", help="of the model, with all of its heads")
    add_link(push)
    push.add_argument("--keys", type=Path, required=True, help="folder of roots and the signed list")
    push.add_argument(
        "--base", action="append", type=Path, default=[], metavar="FOLDER",
        help="of a model that is aboard, for a difference (default: the folders beside FOLDER)",
    )  # fmt: skip
    push.add_argument("--whole", action="store_true", help="send whole files, no differences")
    push.add_argument("--bytes", type=size_of, help="sent and received at most (default: no end)")
    push.add_argument("--window", type=seconds, help="how long the pass lasts, like 8m (default: no end)")
    push.add_argument("--wait", type=seconds, default=30.0, help="for its verification aboard (default: 30s)")
    push.add_argument("--quiet", action="store_true", help="print nothing but errors")
    push.add_argument("--json", action="store_true", help="print one machine-readable report")
    push.set_defaults(command=_push)
    listing = verbs.add_parser("ls", help="models aboard, their states and reasons")
    add_link(listing)
    listing.add_argument("--json", action="store_true", help="machine-readable")
    listing.set_defaults(command=_ls)


def _keys(options: argparse.Namespace) -> int:
    from ground.model.keys import KeyPlan, make_keys
    from ground.model.replacement import replace_keys

    if options.replace:
        path = replace_keys(options.keys, options.replace, options.days)
        options.screen.line(f"{path}: `ground model push` sends it up; sign the models again")
        return 0
    plan = KeyPlan(options.root_keys, options.root_threshold, options.model_keys, options.model_threshold)
    make_keys(options.keys, plan, options.days)
    options.screen.line(f"{options.keys / 'root.json'}: put it aboard, ONBOARD_TRUST_ROOT names it")
    options.screen.line(
        f"{options.keys / 'private'}: {plan.root_keys} root keys ({plan.root_threshold} sign), "
        f"{plan.model_keys} for models ({plan.model_threshold} sign); each belongs on a machine of its own"
    )
    return 0


def _sign(options: argparse.Namespace) -> int:
    from ground.model.sign import sign
    from ground.model.unit import unit_of

    unit = unit_of(options.folder)
    return _say_signed(options, sign(options.keys, unit, days=options.days, paths=options.key), unit.name, unit.version)


def _withdraw(options: argparse.Namespace) -> int:
    from ground.model.sign import withdraw
    from ground.model.unit import unit_of

    unit = unit_of(options.folder)
    signed = withdraw(options.keys, unit.name, unit.version, days=options.days, paths=options.key)
    return _say_signed(options, signed, unit.name, unit.version)


def _say_signed(options: argparse.Namespace, by: Any, name: str, version: str) -> int:
    missing = by.threshold - len(by.signed)
    more = f"; {count(missing, 'more key')} must sign" if missing > 0 else ""
    options.screen.line(f"{name} {version}: list version {by.version}, signed by {', '.join(by.signed)}{more}")
    return 0


def _push(options: argparse.Namespace) -> int:
    from ground.link import Window, WindowClosed
    from ground.model.push import Push, refusal
    from ground.model.unit import unit_of

    unit, screen = unit_of(options.folder), options.screen
    spoken = not (options.quiet or options.json)
    window = Window(options.window, options.bytes)
    with options.open_link(options, window) as link, screen.progress(spoken and sys.stderr.isatty()) as progress:
        say = screen.line if spoken else lambda _: None
        push = Push(link, unit, options.keys, _bases(options), say, progress)
        try:
            push.run(options.wait)
        # No error: what the satellite kept stays there, and the report says how much is left.
        except WindowClosed:
            push.report.window_closed = True
    report = push.report
    if options.json:
        screen.line(json.dumps(asdict(report)))
    elif spoken:
        screen.line(f"{unit.name} {unit.version} ({unit.digest[:12]}): {_outcome(report)}")
    # Behind the report, so that a script which reads --json has it in this case too.
    refused = refusal(report)
    if refused is not None:
        raise refused
    if report.window_closed and link.answers == 0:
        screen.note("nothing came through in this pass")
        return 4
    return WORK_LEFT if report.left_bytes or report.window_closed else 0


def _bases(options: argparse.Namespace) -> list[Path] | None:
    """Folders of models that may be aboard; None where no differences are wanted."""
    if options.whole:
        return None
    folder = options.folder.resolve()
    beside = (path.parent for path in folder.parent.glob("*/manifest.json"))
    # A base only helps where the satellite has the same file, which is told by digest: any folder may be tried.
    return options.base or sorted(path for path in beside if path != folder)


def _outcome(report: Any) -> str:
    sent = f"{size(report.sent_bytes)} sent of {size(report.model_bytes)}"
    parts = [f"{report.state or 'state not known'}, {sent}"]
    if report.left_bytes:
        parts.append(f"about {size(report.left_bytes)} left: the same command continues")
    elif report.reason:
        parts.append(report.reason)
    if report.window_closed and not report.sent_bytes:
        parts.append(
            "nothing went up in this pass, which ended with the satellite's answers: give it more --bytes or time"
        )
    return "; ".join(parts)


def _ls(options: argparse.Namespace) -> int:
    from ground.model.answers import ModelsAboard

    with options.open_link(options, None) as link:
        if options.json:
            options.screen.line(json.dumps(link.json("GET", "/models")))
            return 0
        aboard = link.read(ModelsAboard, "GET", "/models")
    rows = [
        {
            "model": f"{model.name} {model.version}", "digest": model.digest[:12], "state": model.state,
            "heads": ", ".join(f"{head.name} {head.classes}" for head in model.heads) or "-",
            "aboard_bytes": sum(file.held for file in model.files), "bytes": sum(file.bytes for file in model.files),
            "reason": model.reason,
        }
        for model in aboard.models
    ]  # fmt: skip
    options.screen.table(rows)
    if aboard.problem:
        options.screen.note(f"no models are taken there: {aboard.problem}")
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number; give 1 or more")
    return int(text)
