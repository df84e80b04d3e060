// Package upper carries the writable layer of an overlay mount (its upper directory) from
// one host to another as a tar stream: Pack makes one, Unpack puts one into an empty directory.
// The owner of a container uses both (`hvctl migrate send --mode restart`).
//
// The stream is a layer as OCI images have them (image-spec 1.1, layer.md): a file that was removed
// is an empty file .wh.NAME, and a directory that hides the image's has .wh..wh..opq in it. Owners,
// modes, times, hard links, pipes and the attributes user.* and security.capability go along.
// Sockets do not: who listened at them is gone. Devices and overlayfs's shortcuts (redirected
// directories, files without their data), which no mount of ours makes, are errors.
//
// Both the directory and the stream are hostile. The directory must not change while it is
// packed (it is that of a frozen container). What a stream brings lands below one directory (os.Root) or is
// refused.
package upper
