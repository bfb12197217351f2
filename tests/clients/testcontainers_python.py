"""testcontainers for Python: a container with a port, an exec, a network."""

import os
import urllib.request

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

IMAGE = os.environ["IMAGE"]
SERVER = "sh -c 'echo ready; exec httpd -f -h /etc'"

with Network() as network:
    server = DockerContainer(IMAGE).with_exposed_ports(80).with_command(SERVER)
    with server.with_network(network).with_network_aliases("web") as web:
        address = f"http://{web.get_container_host_ip()}:{web.get_exposed_port(80)}/os-release"
        for _ in range(50):
            try:
                text = urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError as error:
                text = repr(error).encode()
        assert text.startswith(b"ID=busybox"), text
        assert web.get_logs()[0] == b"ready\n", web.get_logs()
        done = web.exec("echo hi")
        assert (done.exit_code, done.output) == (0, b"hi\n"), done
        with DockerContainer(IMAGE).with_network(network).with_command("sleep 100") as other:
            done = other.exec("wget -q -O - http://web/os-release")
            assert done.exit_code == 0 and done.output.startswith(b"ID=busybox"), done
