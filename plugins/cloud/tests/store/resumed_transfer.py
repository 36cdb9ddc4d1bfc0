"""Kill the upload and the download of a large artefact halfway, resume both, and count the bytes that went twice.

    python plugins/cloud/tests/store/resumed_transfer.py [--megabytes 2000] [--part 32]

Ends with 1 if the artefact that arrives differs, or if more went twice than parts that were on their way at the kill.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from object_server import KEYS, FaultyProxy, s3_server

__all__: list[str] = []

ADDRESS = "s3://bucket/kdtool"
MEGABYTE = 1 << 20
WORK = """
import sys
from pathlib import Path

import kdtool_cloud.store.artefacts as parts
from kdtool._run.context import open_remote
from kdtool._store.artefacts import Artefacts
from kdtool._store.shared import cache_folder

parts.PART = int(sys.argv[1])
store = cache_folder(sys.argv[2])

def build(folder: Path) -> None:
    Path(sys.argv[3]).rename(folder / "large")

made = Artefacts(store, open_remote(store), "store").make("signals", "", "f" * 64, build=build, waiting=print)
print(made.path)
"""


def main() -> int:
    """Transfer, kill and resume in both directions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--part", type=int, default=32, help="megabytes of a part")
    options = parser.parse_args()
    size, part = options.megabytes * MEGABYTE, options.part * MEGABYTE
    with tempfile.TemporaryDirectory(prefix="kdtool-resumed-") as folder, s3_server() as port:
        place, proxy = Path(folder), FaultyProxy(port)
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}
        content = place / "content"
        with content.open("wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(MEGABYTE))
        sent = transfer(place / "first", content, part, lambda: proxy.sent, size)
        received = transfer(place / "second", content, part, lambda: proxy.received, size)
        first, second = (next((place / name).glob("*/signals/*/large")) for name in ("first", "second"))
        same = subprocess.run(["cmp", str(first), str(second)], check=False).returncode == 0
    print(f"{size:,} bytes: {sent:,} sent, {sent - size:,} again; {received:,} received, {received - size:,} again")
    print(f"arrived unchanged: {same}")
    return int(not same or max(sent, received) - size > 5 * part)


def transfer(cache: Path, content: Path, part: int, count: Callable[[], int], size: int) -> int:
    """Start a transfer, kill it halfway, resume it, and return the bytes that went."""
    before, environment = count(), {**os.environ, "KDTOOL_STORE_CACHE": str(cache), "KDTOOL_LEASE_RENEWAL": "1"}
    command = [sys.executable, "-c", WORK, str(part), ADDRESS, str(content)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while count() - before < size / 2:
        assert process.poll() is None, "the transfer ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return count() - before


if __name__ == "__main__":
    sys.exit(main())
