"""Listens at every port of a rack, over IPv4 and IPv6, so that what can't be reached is the firewall's work."""

import selectors
import socket

PORTS = (2233, 2234, 2235, 5000, 6379, 6699, 7100, 7101, 7102, 8443, 9090, 9091, 9092, 9100, 9190, 9400)

selector = selectors.DefaultSelector()
for port in PORTS:
    selector.register(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True), 1)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
