"""The Docker SDK for Python: what it calls, and what it makes of the answers."""

import io
import os
import socket
import tarfile

import docker

client = docker.from_env(version="auto", timeout=60)
IMAGE = os.environ["IMAGE"]
RUN = {"image": IMAGE, "network_mode": "none"}


def raises(kind, act):
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


assert client.ping() and client.version()["ApiVersion"] == "1.51"
assert client.containers.run(command=["echo", "hi"], remove=True, **RUN) == b"hi\n"
raises(docker.errors.ImageNotFound, lambda: client.images.get("nothing"))
raises(docker.errors.NotFound, lambda: client.containers.get("nothing"))
failed = raises(
    docker.errors.ContainerError,
    lambda: client.containers.run(command=["sh", "-c", "echo bad >&2; exit 3"], remove=True, **RUN),
)
assert (failed.exit_status, failed.stderr) == (3, b"bad\n")

box = client.containers.run(command=["sleep", "1000"], detach=True, name="box", labels={"a": "b"}, **RUN)
assert [one.name for one in client.containers.list(filters={"label": "a=b"})] == ["box"]
done = box.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
assert (done.exit_code, done.output) == (4, (b"o\n", b"e\n"))

stream = box.exec_run(["cat"], stdin=True, socket=True).output._sock
stream.sendall(b"abc\n")
stream.shutdown(socket.SHUT_WR)
seen = b""
while piece := stream.recv(100):
    seen += piece
assert seen == b"\x01\0\0\0\0\0\0\x04abc\n", seen

data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as tar:
    entry = tarfile.TarInfo("file")
    entry.size = 3
    tar.addfile(entry, io.BytesIO(b"xyz"))
assert box.put_archive("/tmp", data.getvalue())
pieces, stat = box.get_archive("/tmp/file")
assert (stat["name"], stat["size"]) == ("file", 3)
with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
    assert tar.extractfile("file").read() == b"xyz"

assert box.top()["Titles"][:2] == ["UID", "PID"]
assert box.stats(stream=False)["name"] == "/box"
box.stop(timeout=0)
assert box.wait()["StatusCode"] == 137
box.reload()
assert box.status == "exited"
assert box.commit("kept", "1").tags == ["kept:1"]
box.remove()
client.images.remove("kept:1")

client.volumes.create("volume").remove()
short = client.containers.run(command=["sh", "-c", "echo 1; echo 2"], detach=True, **RUN)
assert list(short.logs(stream=True, follow=True)) == [b"1\n", b"2\n"]
short.remove(force=True)
# What a quick process says comes, too.
quick = client.containers.run(command=["sleep", "1000"], detach=True, **RUN)
for _ in range(30):
    assert quick.exec_run("echo hi").output == b"hi\n"
quick.remove(force=True)

recipe = f"FROM {IMAGE}\nARG A\nRUN echo $A > /a\nCMD cat /a\n".encode()
built, said = client.images.build(fileobj=io.BytesIO(recipe), buildargs={"A": "z"}, tag="built:1", network_mode="none")
assert "built:1" in built.tags and any("Step 3/4 : RUN" in one.get("stream", "") for one in said)
assert client.containers.run("built:1", remove=True, network_mode="none") == b"z\n"
wrong = raises(
    docker.errors.BuildError,
    lambda: client.images.build(fileobj=io.BytesIO(recipe.replace(b"echo", b"exit 3; echo")), network_mode="none"),
)
assert "returned a non-zero code: 3" in wrong.msg, wrong.msg
client.images.remove("built:1")
assert client.info()["OSType"] == "linux" and client.df()["LayersSize"] > 0
for kind in (client.containers, client.volumes, client.networks, client.images):
    kind.prune()
