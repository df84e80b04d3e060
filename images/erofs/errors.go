package erofs

import "errors"

// ErrInvalid says that a tree cannot be expressed in an image: a name with a
// slash, a directory linked twice, an attribute that is too large.
var ErrInvalid = errors.New("invalid file tree")

// ErrTooLarge says that the image would not fit the format: more than 2^32
// blocks (16 TiB) or a metadata area that is too large.
var ErrTooLarge = errors.New("file system image too large")
