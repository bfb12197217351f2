# rocker: an image with extensions is built and run.
set -eux
rocker --env A=b --name rocked --volume "$PWD:/given" --nocleanup "$IMAGE" env | tee log
grep -q '^A=b' log
grep -q 'Successfully built' log
docker inspect rocked --format '{{range .Mounts}}{{.Destination}}{{end}}' | grep -qx /given
docker rm -f rocked
