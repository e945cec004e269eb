"""The verb that serves a page to speak to a model: `python -m shared_moe_conformer.serve --model zoo/NAME`."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import sys
from collections.abc import Sequence

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import Parser, add_flags, add_layers_flag, add_vad_flag, apply_flags, program, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.tuned_values import differences
from shared_moe_conformer.device import add_device_flag, choose_device, limit_threads, tune_cpu
from shared_moe_conformer.params import counts_of
from shared_moe_conformer.release.transfer import add_model_flags, resolve
from shared_moe_conformer.streaming import EndpointRules

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
OPTIONAL = (
    ("live recognition, which needs", "wsproto", ("websockets", "wsproto")),
    ("forms (curl -F), which need", "python-multipart", ("python_multipart",)),
)
"""Features, the packages that they need, and modules of each package; one module is enough."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _serve(args))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0: any free port.

    Raises:
      ValueError: there is no such address, or another program listens there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen at {host}, port {port} ({error}): give another --port or --host") from error


def allowed_hosts(host: str) -> list[str]:
    """Host names, as browsers write them, under which they may ask for the page at this address."""
    host = host.lower()
    if host in ("0.0.0.0", "::"):
        return ["*"]
    return [*LOCAL_HOSTS, f"[{host}]" if ":" in host else host]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("serve"),
        description="Serve a page on which you speak, or drop an audio file, and see the words, their times and the "
        "experts that computed each frame. Programs post recordings to /transcribe (curl -F file=@a.wav) and ask "
        "/health how busy the server is. A model that was trained to stream also serves clients of sherpa-onnx's "
        "streaming WebSocket server, at /stream and at /.",
    )
    add_model_flags(parser)
    parser.add_argument("--port", type=int, default=8000, help="port of the page; 0: any free one [8000]")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; by default only this machine can ask; 0.0.0.0: every machine that reaches this "
        "one can, but browsers allow recording only on localhost and behind https [127.0.0.1]",
    )
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=32.0,
        help="largest size of an upload, all files of a form together, in MB [32]",
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=16,
        help="uploads that may wait while another is recognised; further ones are told to try again [16]",
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=60.0, help="clients that send nothing for this long are disconnected [60]"
    )
    live = parser.add_argument_group("live", "speech that is recognised while it is spoken")
    live.add_argument(
        "--chunk-size",
        type=int,
        help="encoder frames of 40 ms that are recognised together: 16 are 640 ms [the largest chunk that the model "
        "was trained with]",
    )
    live.add_argument(
        "--left-context-frames",
        type=int,
        help="encoder frames before its chunk that a frame attends to [the most that the model was trained with]",
    )
    live.add_argument(
        "--max-streams", type=int, default=16, help="people at once; others are told to try again later [16]"
    )
    add_layers_flag(parser)
    add_vad_flag(parser)
    add_device_flag(parser)
    add_flags(parser, EndpointRules)
    return parser


def _serve(args: argparse.Namespace) -> None:
    for package in ("fastapi", "uvicorn"):
        found = importlib.util.find_spec(package) is not None
        require(found, f"the package {package} is not installed: pip install fastapi uvicorn wsproto python-multipart")
    from shared_moe_conformer.web.app import Limits, LiveOptions, Server, create_app

    for name in ("max_megabytes", "max_streams", "idle_seconds"):
        require(getattr(args, name) > 0, f"{name} is {getattr(args, name)}: give a positive number")
    require(args.max_waiting >= 0, f"max_waiting is {args.max_waiting}: give 0 or more uploads")
    for what, package, modules in OPTIONAL:
        if not any(importlib.util.find_spec(module) for module in modules):
            print(f"without {what} the package {package}: pip install {package}", file=sys.stderr)
    rules = apply_flags(EndpointRules(), args)
    tune_cpu()
    folder = resolve(args.model, zoo_dir=args.zoo_dir)
    bundle = Bundle.load(folder).to(choose_device(args.device))
    bundle.model.encoder.use_layers(args.num_layers)
    bundle.model.encoder.merge_once()
    limit_threads(counts_of(bundle.model)["total"].active)
    if tuned := differences([bundle.default_search], bundle.manifest.decoding_options):
        print(f"with the model's tuned values: {tuned}", file=sys.stderr)
    limits = Limits(int(args.max_megabytes * 1e6), args.max_waiting)
    live = LiveOptions(args.chunk_size, args.left_context_frames, args.max_streams, args.idle_seconds, rules)
    app = create_app(bundle, folder, hosts=allowed_hosts(args.host), limits=limits, live=live, vad=args.vad)
    with listen(args.host, args.port) as listener:
        shown = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{shown}:{listener.getsockname()[1]} serves {bundle.manifest.name}; Ctrl-C ends it", flush=True)
        Server(app).run(sockets=[listener])


if __name__ == "__main__":
    main()
