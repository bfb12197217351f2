# Compose, of the version that $COMPOSE is: a build, a health check, a volume, a port, a rebuild.
set -eux
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
"$COMPOSE" version
printf 'FROM %s\nARG WHAT\nRUN echo "$WHAT" > /what\nCMD ["httpd", "-f", "-h", "/"]\n' "$IMAGE" > Dockerfile
cat > docker-compose.yml <<END
version: "2.4"
services:
  web:
    build: {context: ., args: {WHAT: one}}
    ports: ["127.0.0.1:18081:80"]
    environment: {A: b}
    volumes: ["data:/data", "./Dockerfile:/given:ro"]
    healthcheck: {test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/what"], interval: 1s}
  client:
    image: $IMAGE
    depends_on: {web: {condition: service_healthy}}
    command: wget -q -O - http://web/what
volumes: {data: {}}
END
"$COMPOSE" up -d --build
for _ in $(seq 100); do "$COMPOSE" logs client | grep -q one && break; sleep 0.1; done
"$COMPOSE" logs client | grep -q one
is "$(curl -sf http://127.0.0.1:18081/what)" one
"$COMPOSE" ps | grep -q 18081
is "$("$COMPOSE" exec -T web sh -c 'echo $A')" b
is "$("$COMPOSE" run --rm client head -n 1 /etc/group)" root:x:0:
sed -i 's/WHAT: one/WHAT: two/' docker-compose.yml
"$COMPOSE" up -d --build
for _ in $(seq 100); do [ "$(curl -sf http://127.0.0.1:18081/what)" = two ] && break; sleep 0.1; done
is "$(curl -sf http://127.0.0.1:18081/what)" two
"$COMPOSE" stop -t 0
"$COMPOSE" down -v -t 0 --rmi local
