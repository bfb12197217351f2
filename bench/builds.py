"""The cases of `bench/run` that build images. Their base is a static busybox, their contexts are made
here, and builds have no network: what is measured is the builder."""

import io
import os
import shutil
import tarfile

BASE = "localhost/bench/busybox:build"
# 10 instructions, 4 RUN and 3 COPY.
DOCKERFILE = f"""FROM {BASE}
ENV MODE=release
COPY first.txt /app/
RUN mkdir -p /app/made && for i in 1 2 3 4 5 6 7 8 9; do echo $MODE $i > /app/made/$i; done
RUN cp /app/first.txt /app/made/copy
COPY sources /app/sources
RUN cat /app/sources/* > /app/made/all
COPY late.txt /app/
RUN wc -c < /app/late.txt > /app/made/size
CMD ["/bin/cat", "/app/made/size"]
"""


def base_tar():
    """A root file system with busybox, as a tar."""
    with open(shutil.which("busybox"), "rb") as file:
        busybox = file.read()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "dev", "proc", "sys"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        member = tarfile.TarInfo("bin/busybox")
        member.mode, member.size = 0o755, len(busybox)
        tar.addfile(member, io.BytesIO(busybox))
        for name in ("sh", "cat", "cp", "dd", "echo", "mkdir", "true", "wc"):
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(member)
    return out.getvalue()


def make(Case, Failed):
    """The cases, on the benchmark's own class."""

    class Build(Case):
        rounds = 5
        warm_up = 1
        # What stands before the context.
        options = ()

        def context(self, bench, who):
            return bench.path(f"build-{self.name}-{who.name}")

        def write(self, directory):
            os.makedirs(os.path.join(directory, "sources"))
            for path, text in (("Dockerfile", DOCKERFILE), ("first.txt", "first\n"), ("late.txt", "late\n")):
                self.put(directory, path, text)
            for number in range(50):
                self.put(directory, f"sources/{number}.c", f"int f{number}(void) {{ return {number}; }}\n" * 40)

        def put(self, directory, path, text):
            with open(os.path.join(directory, path), "w") as file:
                file.write(text)

        def setup(self, bench, who):
            if not shutil.which("busybox"):
                raise Failed("busybox-static is not installed")
            who.environment["DOCKER_BUILDKIT"] = "1"
            if BASE not in who.has:
                path = bench.path("build-base.tar")
                if not os.path.exists(path):
                    with open(path, "wb") as file:
                        file.write(base_tar())
                who.do("import", path, BASE)
                who.has.add(BASE)
            self.write(self.context(bench, who))
            self.build(bench, who, who.do)

        def build(self, bench, who, run, *options):
            return run("build", "-q", "--network", "none", *options, "-t", f"localhost/bench/{self.name}:1", self.context(bench, who))

        def measure(self, bench, who):
            return {self.name: self.build(bench, who, who.measure, *self.options)}

        def teardown(self, bench, who):
            who.do("rmi", "-f", f"localhost/bench/{self.name}:1", check=False)
            shutil.rmtree(self.context(bench, who), ignore_errors=True)

    class Cold(Build):
        name = "build-cold"
        about = "build --no-cache of 10 instructions: 4 RUN, 3 COPY; the base is there"
        options = ("--no-cache",)

    class Cached(Build):
        name = "build-cached"
        about = "the same with nothing changed"

    class Late(Build):
        name = "build-late"
        about = "the same with the file of the last COPY changed"
        number = 0

        def before(self, bench, who):
            self.number += 1
            self.put(self.context(bench, who), "late.txt", f"late {self.number}\n")
            super().before(bench, who)

    class Rescan(Build):
        name = "build-rescan"
        about = "COPY of a context of 100,000 files, with nothing changed"
        rounds = 3

        def write(self, directory):
            os.makedirs(directory)
            self.put(directory, "Dockerfile", f"FROM {BASE}\nCOPY . /context\n")
            for number in range(100_000):
                if number % 1000 == 0:
                    os.makedirs(os.path.join(directory, f"d{number // 1000}"))
                self.put(directory, f"d{number // 1000}/f{number}", f"{number}\n")

    class Large(Build):
        name = "build-run-1gb"
        about = "build --no-cache of a RUN that writes 1 GB"
        rounds = 2
        warm_up = 0
        options = ("--no-cache",)

        def write(self, directory):
            os.makedirs(directory)
            self.put(directory, "Dockerfile", f"FROM {BASE}\nRUN dd if=/dev/zero of=/large bs=1000000 count=1000\n")

    return [Cold(), Cached(), Late(), Rescan(), Large()]
