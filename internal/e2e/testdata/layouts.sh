#!/bin/sh
# Makes images with umoci, skopeo and buildah, in the current folder. Their command
# is sh -c "$1".
set -e
busybox=$(command -v busybox)
umoci init --layout umoci
umoci new --image umoci:v1
umoci unpack --image umoci:v1 bundle >/dev/null
root=bundle/rootfs
mkdir -p $root/bin $root/etc $root/srv
cp "$busybox" $root/bin/busybox
for name in sh cat id ls stat test; do ln -s busybox $root/bin/$name; done
echo made >$root/etc/made
echo gone >$root/etc/gone
echo own >$root/srv/own && chown 7:8 $root/srv/own && chmod 4750 $root/srv/own
ln $root/etc/made $root/srv/same
umoci repack --image umoci:v1 bundle >/dev/null
rm $root/etc/gone
umoci repack --image umoci:v1 bundle >/dev/null
umoci config --image umoci:v1 --config.cmd sh --config.cmd -c --config.cmd "$1" --config.env A=b --config.env PATH=/bin --config.workingdir /srv --config.user 7:8
skopeo --insecure-policy copy -q oci:umoci:v1 oci-archive:skopeo.tar:v1
skopeo --insecure-policy copy -q oci:umoci:v1 docker-archive:docker.tar:made:v1
skopeo --insecure-policy copy -q --dest-compress-format zstd oci:umoci:v1 oci:zstd:v1
build() { buildah --root "$PWD/storage" --runroot "$PWD/run" --storage-driver vfs "$@"; }
c=$(build from scratch)
cp -a $root/. "$(build mount "$c")/"
build config --cmd '["sh","-c","'"$1"'"]' --env A=b --env PATH=/bin --workingdir /srv --user 7:8 "$c"
build commit -q "$c" oci:buildah:v1 >/dev/null
build rm "$c" >/dev/null
