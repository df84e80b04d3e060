// Package qcow2 reads qcow2 disk images that nobody vouches for. A library decodes
// tables and clusters (docs/adr, "qcow2 images are read by a library"); this package
// stands between it and the file: it judges the header first, shows the library one
// of its own making, and bounds what each read may cost.
//
// An image is read by one descriptor and opens no other file: an image that names a
// backing file or an external data file is refused, whatever the name. Nothing is
// ever written. The format is QEMU's docs/interop/qcow2.txt.
package qcow2
