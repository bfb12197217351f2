#!/bin/bash
# `docker buildx build`, `docker build`, bake, and Compose's builds by BuildKit's protocol. PLUGINS: where
# docker's plugins are.
set -eu
place=$PWD
mkdir -p "$place/config"
ln -s "$PLUGINS" "$place/config/cli-plugins"
export DOCKER_CONFIG="$place/config" BUILDKIT_PROGRESS=plain
unset DOCKER_BUILDKIT
fail() { echo "failed: $*" >&2; [ ! -e "$place/out" ] || sed 's/^/  | /' "$place/out" >&2; exit 1; }

build() { docker buildx build "$@" > "$place/out" 2>&1; }
says() { grep -qF -- "$1" "$place/out" || fail "no '$1' in the output"; }

mkdir -p "$place/app/sub" "$place/other"
echo hello > "$place/app/hello"; echo deep > "$place/app/sub/deep"; echo no > "$place/app/ignored"
echo ignored > "$place/app/.dockerignore"; echo further > "$place/other/further"
printf %s s3cret > "$place/secret"
cat > "$place/app/Dockerfile" <<'END'
FROM busybox:test AS base
ARG WHO=nobody
RUN echo "built for $WHO"
FROM base AS files
COPY . /files
COPY --from=other further /
RUN --mount=type=secret,id=word echo "the word is $(cat /run/secrets/word)"; ls /files
FROM scratch AS out
COPY --from=files /files/hello /further /
END

docker buildx inspect > "$place/out"; says 'Driver:'; says 'running'

build --build-arg WHO=me --build-context other="$place/other" --secret id=word,src="$place/secret" \
    --target files -t bx:one -t bx:again --iidfile "$place/id" --metadata-file "$place/metadata" \
    --no-cache --label a.b=c "$place/app" || fail "a build"
says 'built for me'; says 'the word is s3cret'; says 'hello'
! grep -q ignored "$place/out" || fail "what .dockerignore leaves out has come"
docker run --rm --network none bx:one cat /files/sub/deep > "$place/out"; says deep
docker image inspect -f '{{.Id}} {{index .Config.Labels "a.b"}}' bx:again > "$place/out"; says "$(cat "$place/id") c"
grep -q "\"containerimage.config.digest\": \"$(cat "$place/id")\"" "$place/metadata" || fail "metadata"
grep -q '"image.name": "docker.io/library/bx:' "$place/metadata" || fail "names in the metadata"

build --build-arg WHO=me --build-context other="$place/other" --secret id=word,src="$place/secret" \
    --target files "$place/app" || fail "the same build again"
says CACHED
! grep -q 'built for me' "$place/out" || fail "nothing came from the cache"
echo changed > "$place/app/hello"
build --build-arg WHO=me --build-context other="$place/other" --target files -t bx:changed "$place/app" || fail "a change"
docker run --rm --network none bx:changed cat /files/hello > "$place/out"; says changed

build --build-context other="$place/other" --output "type=local,dest=$place/local" "$place/app" || fail "a directory"
[ "$(cat "$place/local/hello" "$place/local/further")" = "$(printf 'changed\nfurther')" ] || fail "the directory's files"
build --build-context other="$place/other" --output "type=tar,dest=$place/out.tar" "$place/app" || fail "a tar"
tar -tf "$place/out.tar" > "$place/out"; says further
build --build-context other="$place/other" --output "type=docker,dest=$place/image.tar,name=bx:loaded" "$place/app" || fail "an image's archive"
docker load -i "$place/image.tar" > "$place/out"; says 'bx:loaded'
rm -rf "$place/local"

printf 'FROM busybox:test\nRUN echo seen; exit 7\n' > "$place/app/fails"
! build -f "$place/app/fails" "$place/app" || fail "a failure is none"
says seen; says 'exit code 7'; says 'fails:2'
printf 'FROM busybox:test\nRUNN x\n' | docker buildx build -f - "$place/app" > "$place/out" 2>&1 && fail "a mistake is none"
says 'unknown instruction'
tar -C "$place/app" -c . | docker buildx build --build-context other="$place/other" --target base -t bx:tar - > "$place/out" 2>&1 || fail "a tar as context"
printf 'FROM busybox:test\nLABEL from=input\n' | docker buildx build -t bx:input - > "$place/out" 2>&1 || fail "a Dockerfile as input"

printf 'from busybox:test\nRUN true\n' > "$place/app/odd"
docker buildx build --check -f "$place/app/odd" "$place/app" > "$place/out" 2>&1 || true
! docker buildx build --help | grep -q -- --check || says ConsistentInstructionCasing
docker buildx du > "$place/out" 2>&1 || fail "buildx du"
says 'Total:'
docker buildx du --filter type=exec.cachemount > "$place/out" 2>&1 || fail "du of cache mounts"
docker buildx prune -f --filter type=exec.cachemount --filter until=24h > "$place/out" 2>&1 || fail "prune of cache mounts"

# What is not there is said.
docker buildx build --provenance=true "$place/app" > "$place/out" 2>&1 && fail "attestations that are none"
grep -qi 'attestations are not supported' "$place/out" || fail "attestations are missing without a word"
printf '# syntax=someone/frontend:3\nFROM busybox:test\n' > "$place/app/foreign"
build -f "$place/app/foreign" "$place/app" && fail "a frontend that is not run"
says 'cannot build by frontend `someone/frontend:3`'
build --build-arg BUILDKIT_SYNTAX=someone/frontend:3 "$place/app" && fail "a frontend that is not run"
says 'cannot build by frontend `someone/frontend:3`'
printf '# syntax=docker/dockerfile:1\nFROM busybox:test\n' > "$place/app/usual"
build -f "$place/app/usual" "$place/app" || fail "the usual frontend"
build --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1.7 -f "$place/app/usual" "$place/app" || fail "the usual frontend by an argument"
cat > "$place/bake.hcl" <<'END'
group "default" {
  targets = ["lib", "app"]
}
target "lib" {
  dockerfile-inline = "FROM busybox:test\nRUN echo of the library > /lib.txt"
}
target "app" {
  contexts = { library = "target:lib" }
  dockerfile-inline = "FROM library\nCOPY --from=library /lib.txt /again"
  tags = ["bx:baked"]
}
END
docker buildx bake -f "$place/bake.hcl" > "$place/out" 2>&1 || fail bake
docker run --rm --network none bx:baked cat /again > "$place/out"; says 'of the library'

# Ctrl-C ends the command inside, too.
printf 'FROM busybox:test\nRUN echo begun; sleep 4321\n' > "$place/app/sleeps"
docker buildx build -f "$place/app/sleeps" "$place/app" > "$place/out" 2>&1 &
pid=$!
for _ in $(seq 100); do ! grep -q begun "$place/out" || break; sleep 0.1; done
says begun
# The terminal sends it to the command and to its plugin.
kill -INT $(pgrep -P "$pid") "$pid"; ! wait "$pid" || fail "a build that was interrupted succeeds"
for _ in $(seq 50); do pgrep -f 'sleep 432[1]' > "$place/pids" || break; sleep 0.1; done
[ ! -s "$place/pids" ] || fail "the command of an interrupted build goes on"

# Two at once, of one context.
build --no-cache --target base -t bx:one "$place/app" & pid=$!
docker buildx build --no-cache --target base -t bx:two "$place/app" > "$place/two" 2>&1 || fail "the second of two"
wait "$pid" || fail "the first of two"

if docker build --help | grep -q docker-buildx || [ "$(docker version -f '{{.Client.Version}}' | cut -d. -f1)" -ge 23 ]; then
    docker build --target base -t bx:plain "$place/app" > "$place/out" 2>&1 || fail "docker build"
    says '[base 2/2]'
fi

# With the machine's own programs of ssh.
if command -v ssh-agent ssh-add ssh-keygen > /dev/null; then
    program=$(command -v ssh-add)
    mkdir -p "$place/ssh"
    for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
        mkdir -p "$place/ssh$(dirname "$file")"
        cp -L "$file" "$place/ssh$file"
    done
    printf 'FROM busybox:test\nCOPY . /\nRUN --mount=type=ssh,required=true %s -l\n' "$program" > "$place/ssh/Dockerfile"
    eval "$(ssh-agent)" > /dev/null
    ssh-keygen -q -t ed25519 -N '' -C a-key-of-the-test -f "$place/key"
    ssh-add -q "$place/key"
    build --no-cache --ssh default "$place/ssh" || { kill "$SSH_AGENT_PID"; fail "a build with an agent"; }
    kill "$SSH_AGENT_PID"
    says a-key-of-the-test
    ! build --no-cache "$place/ssh" || fail "an agent that was not given"
    says 'was not given'
fi

cat > "$place/compose.yaml" <<END
name: bx
services:
  web:
    build: {context: ./app, target: base, args: {WHO: composed}, labels: {x: "y"}}
    image: bx:composed
    network_mode: none
    command: [echo, it runs]
END
docker compose -f "$place/compose.yaml" build --no-cache > "$place/out" 2>&1 || fail "compose build"
says 'built for composed'
docker compose -f "$place/compose.yaml" up > "$place/out" 2>&1 || fail "compose up"
says 'it runs'
docker compose -f "$place/compose.yaml" down > "$place/out" 2>&1 || fail "compose down"

# Docker 20 with BuildKit's protocol of its own.
if [ "$(docker version -f '{{.Client.Version}}' | cut -d. -f1)" -lt 23 ]; then
    DOCKER_BUILDKIT=1 docker build --build-arg WHO=old --no-cache --target base -t bx:old "$place/app" > "$place/out" 2>&1 || fail "docker 20"
    says 'built for old'
    docker image inspect bx:old > "$place/out" 2>&1 || fail "the image of docker 20"
    ! DOCKER_BUILDKIT=1 docker build -f "$place/app/fails" "$place/app" > "$place/out" 2>&1 || fail "a failure of docker 20 is none"
    says 'exit code 7'
fi
