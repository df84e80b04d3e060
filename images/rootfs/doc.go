// Package rootfs flattens the layers of an OCI image into one read-only file
// system image.
//
// Layers are applied from the lowest to the uppermost as the OCI image
// specification (v1.1, layer.md) says: whiteouts and opaque whiteouts hide what
// lower layers hold, an entry replaces what was there, a directory entry over a
// directory changes only its attributes. A layer is read once, from start to
// end; file contents go straight to their place in the image. The same layers
// always give the same bytes.
//
// Layers are hostile input. Names cannot leave the root, links are resolved
// inside it, and the number of entries and of bytes is bounded. Nothing of a
// layer is ever created on the host.
//
// What it is not: it does not fetch, decompress or store layers (package
// images), nor unpack them to a directory. An unpacker for overlayfs would be a
// second consumer of parseEntry and of the same rules. Imported by images only.
package rootfs
