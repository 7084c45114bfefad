"""Take whatever comes over the network: `python sink.py ADDRESS`; it prints its port.

A process of its own, so that what it costs is nobody's whom the demo measures.
"""

import socket
import sys


def main() -> None:
    """Listen at an address, and read from one caller after the other."""
    with socket.create_server((sys.argv[1], 0)) as server:
        print(server.getsockname()[1], flush=True)
        room = bytearray(1 << 18)
        while True:
            caller, _ = server.accept()
            with caller:
                while caller.recv_into(room):
                    pass


if __name__ == "__main__":
    main()
