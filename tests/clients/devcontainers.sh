# The dev containers command: an image, a Dockerfile with a feature from here, Compose; up, exec, build;
# the user of the container gets the number of the user outside.
set -eux
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
more=(--docker-compose-path "$COMPOSE")
up() { "$DEVCONTAINER" up --workspace-folder "$1" --buildkit never "${more[@]}"; }
execute() { "$DEVCONTAINER" exec --workspace-folder "$1" "${more[@]}" "${@:2}"; }

mkdir -p image/.devcontainer file/.devcontainer/hello compose/.devcontainer
cat > image/.devcontainer/devcontainer.json <<END
{"image": "$IMAGE", "remoteUser": "user", "containerEnv": {"A": "b"}, "remoteEnv": {"R": "s"},
 "postCreateCommand": "echo created > /tmp/created", "forwardPorts": [8080]}
END
up image | tee up.log
grep -q '"outcome":"success"' up.log
is "$(execute image sh -c 'id -un; id -u; pwd; echo $A $R; cat /tmp/created' | tr '\n' ' ')" \
    "user $(id -u) /workspaces/image b s created "
execute image touch made
is "$(stat -c %u image/made)" "$(id -u)"
up image | grep -q '"outcome":"success"'

cat > file/.devcontainer/devcontainer.json <<END
{"build": {"dockerfile": "Dockerfile", "args": {"WHAT": "some"}}, "remoteUser": "user",
 "features": {"./hello": {"greeting": "good day"}}}
END
printf 'FROM %s\nARG WHAT\nRUN echo "$WHAT" > /what\n' "$IMAGE" > file/.devcontainer/Dockerfile
echo '{"id": "hello", "version": "1.0.0", "name": "Hello", "options": {"greeting": {"type": "string", "default": "hi"}}}' \
    > file/.devcontainer/hello/devcontainer-feature.json
printf '#!/bin/sh\nset -e\nprintf "#!/bin/sh\\necho %%s\\n" "$GREETING" > /usr/local/bin/hello\nchmod +x /usr/local/bin/hello\n' \
    > file/.devcontainer/hello/install.sh
sed -i '2a mkdir -p /usr/local/bin' file/.devcontainer/hello/install.sh
up file | grep -q '"outcome":"success"'
is "$(execute file cat /what)" some
is "$(execute file hello)" "good day"
"$DEVCONTAINER" build --workspace-folder file --image-name dev:built --buildkit never | grep -q '"outcome":"success"'
is "$(docker run --rm dev:built /usr/local/bin/hello)" "good day"

cat > compose/.devcontainer/devcontainer.json <<END
{"dockerComposeFile": "compose.yml", "service": "app", "workspaceFolder": "/work", "remoteUser": "user"}
END
cat > compose/.devcontainer/compose.yml <<END
services:
  app: {image: "$IMAGE", command: sleep 1000, volumes: ["..:/work"]}
  web: {image: "$IMAGE", command: httpd -f -h /etc}
END
up compose | grep -q '"outcome":"success"'
execute compose wget -q -O - http://web/os-release | grep -q ID=busybox
is "$(execute compose pwd)" /work
docker ps -aq | xargs docker rm -f
