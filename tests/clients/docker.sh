# The docker command, as people and scripts use it.
set -eux
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
docker version --format '{{.Server.APIVersion}}' | grep -qx 1.51
is "$(docker run --rm "$IMAGE" echo hi)" hi
is "$(echo in | docker run --rm -i "$IMAGE" cat)" in
code=0; docker run --rm "$IMAGE" sh -c 'exit 7' || code=$?; is $code 7
code=0; docker run --rm "$IMAGE" /none || code=$?; is $code 127

# The default network, and a published port.
docker run -d --name web -p 127.0.0.1:18080:80 "$IMAGE" httpd -f -h /etc
for _ in $(seq 50); do curl -sf http://127.0.0.1:18080/os-release | grep -q '^ID=busybox' && break; sleep 0.1; done
is "$(curl -sf http://127.0.0.1:18080/os-release | head -n 1)" ID=busybox
is "$(docker port web 80/tcp)" 127.0.0.1:18080
docker network create --label a=b net
docker network connect --alias server net web
docker run --rm --network net "$IMAGE" wget -q -O - http://server/os-release | grep -q ID=busybox
docker exec web sh -c 'echo one; echo two >&2' 2>err | grep -qx one; is "$(cat err)" two
is "$(docker ps --filter name=web --format '{{.Image}} {{.State}}')" "$IMAGE running"
docker logs web; docker top web; docker stats --no-stream web | grep -q web
echo content > file
docker cp file web:/tmp/file; docker cp web:/tmp/file back; cmp file back
docker diff web | grep -q '/tmp/file'
# An ordinary user has these where cgroups are of version 2.
if [ "$(docker info -f '{{.MemoryLimit}}')" = true ]; then
    docker pause web; docker unpause web
    docker update --memory 64m --memory-swap 64m web
else
    code=0; docker pause web 2>err || code=$?; is $code 1; grep -q 'no cgroup of its own' err
fi
docker restart -t 0 web; docker rename web other
docker stop -t 0 other; is "$(docker wait other)" 137; docker start other; docker rm -f other
docker network rm net

# Volumes.
docker volume create data
docker run --rm -v data:/d "$IMAGE" sh -c 'echo x > /d/f'
is "$(docker run --rm --mount type=volume,source=data,target=/d,readonly "$IMAGE" cat /d/f)" x
docker volume rm data

# Images.
mkdir context
printf 'FROM %s\nARG A\nRUN echo "run $A" > /a\nCOPY . /c/\nCMD ["cat", "/a", "/c/b"]\n' "$IMAGE" > context/Dockerfile
echo b > context/b
docker build -t made:1 --build-arg A=z --label l=1 context 2>&1 | tee build.log
grep -q '^Successfully tagged made:1' build.log
is "$(docker run --rm made:1 | tr '\n' ' ')" "run z b "
id=$(docker build -q --build-arg A=z --label l=1 context 2>/dev/null); is "$id" "$(docker inspect -f '{{.Id}}' made:1)"
printf 'FROM scratch\nCOPY . /\n' | docker build -f - -t other context
code=0; printf 'FROM %s\nRUN exit 3\n' "$IMAGE" | docker build - || code=$?; is $code 3
docker history made:1 | grep -q 'run'
docker tag made:1 made:2
docker save made:1 | docker load | grep -q 'made:1'
docker images --filter reference='made:*' --format '{{.Tag}}' | sort | tr '\n' ' ' | grep -qx '1 2 '
docker run --name once made:1; docker commit once kept; docker export once | tar t | grep -qx c/b; docker rm once
docker rmi made:1 made:2 kept other
docker system df | grep -q 'Build Cache'
docker builder prune -af
timeout 5 docker events --since 1 --until "$(date +%s)" --filter event=die | grep -q 'container die'
docker system prune -f
