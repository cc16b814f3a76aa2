#!/usr/bin/env bash
# Build the image where there is no Docker, and look at what came out: on Debian, as root, with
#   apt-get install -y buildah debootstrap && uv run bash tests/image/build.sh [folder]
# Local stand-ins take the place of the two base images: Debian with this machine's Python 3.12, and the same with uv.
# The folder keeps them and the layers for the next time. tests/image/check.py then runs what was built.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-/var/tmp/mlsys-image}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export BUILDAH_ISOLATION=chroot TMPDIR="$folder"
buildah=(buildah --root "$folder/storage" --runroot "$folder/run")
image=localhost/mlsys with_python=localhost/standin-python with_uv=localhost/standin-uv

python=$(python -c 'import sys; print(sys.base_prefix)')
uv=${UV:-$(command -v uv)} # uv run sets it: the program itself, not a shim
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
packages=ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,netbase,tzdata,zlib1g

if ! "${buildah[@]}" inspect --type image "$with_uv" >/dev/null 2>&1; then
  echo "Make the stand-ins"
  debian="$folder/debian"
  if [ ! -d "$debian/usr/local" ]; then
    debootstrap --variant=minbase --include="$packages" bookworm "$debian" http://deb.debian.org/debian >"$folder/debootstrap.log"
  fi
  tar -C "$python" --exclude=__pycache__ --exclude='site-packages/*' --exclude=lib/python3.12/test \
    -cf - bin/python3.12 lib/python3.12 lib/libpython3.12.so.1.0 | tar -C "$debian/usr/local" -xf -
  ln -sf python3.12 "$debian/usr/local/bin/python3"
  ln -sf python3.12 "$debian/usr/local/bin/python"
  ldconfig -r "$debian"
  rm -rf "$debian/var/cache/apt/archives" "$debian/var/lib/apt/lists"

  container=$("${buildah[@]}" from scratch)
  "${buildah[@]}" copy -q "$container" "$debian" / >/dev/null
  "${buildah[@]}" config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
  "${buildah[@]}" commit -q "$container" "$with_python" >/dev/null
  # Only the builder needs a network: it gets this machine's certificates.
  "${buildah[@]}" copy -q "$container" "$uv" /usr/local/bin/uv >/dev/null
  "${buildah[@]}" copy -q "$container" "$certificates" /etc/ssl/certs/ca-certificates.crt >/dev/null
  "${buildah[@]}" config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$container"
  "${buildah[@]}" commit -q "$container" "$with_uv" >/dev/null
  "${buildah[@]}" rm "$container" >/dev/null
fi

echo "Build the image"
"${buildah[@]}" build --pull=never --layers --quiet \
  --build-arg BUILDER_IMAGE="$with_uv" --build-arg RUNTIME_IMAGE="$with_python" \
  --build-arg VERSION="$("$uv" version --short)" --build-arg GIT_COMMIT="$(git rev-parse HEAD)" -t "$image" .

echo "Run it"
python tests/image/check.py "$image" "${buildah[@]}"
