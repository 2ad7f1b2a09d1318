"""Run the cloud: `python -m examples.cloud --state DIR`. Stops on Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from examples.cloud.server import CloudServer
from examples.cloud.service import CloudService, Settings
from examples.cloud.store import Store


def main() -> None:
    """Serve until told to stop; the first line of output ends with the address."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m examples.cloud", description="A small local cloud.")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps its resources")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="creating calls a second")
    parser.add_argument("--burst", type=int, default=defaults.burst, help="creating calls at once")
    parser.add_argument("--latency", type=float, default=defaults.latency, help="seconds that a call takes")
    parser.add_argument("--database-time", type=float, default=defaults.database_time, help="seconds to ready")
    parser.add_argument("--fault-rate", type=float, default=defaults.fault_rate, help="share of calls that fail")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the faults")
    parser.add_argument("--stop-on-eof", action="store_true", help="stop when standard input ends")
    args = parser.parse_args()

    args.state.mkdir(parents=True, exist_ok=True)
    store = Store(args.state / "cloud.sqlite")
    settings = Settings(
        rate=args.rate,
        burst=args.burst,
        latency=args.latency,
        database_time=args.database_time,
        fault_rate=args.fault_rate,
        seed=args.seed,
    )
    server = CloudServer(CloudService(store, settings, time.time, time.sleep), args.port)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    if args.stop_on_eof:
        threading.Thread(target=_stop_on_eof, args=(stop,), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"The cloud is at {server.url}", flush=True)
    stop.wait()
    server.shutdown()


def _stop_on_eof(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


if __name__ == "__main__":
    main()
