package images

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/images/rootfs"
)

var (
	// ErrNotFound says that the store, registry or archive has no such image.
	ErrNotFound = errors.New("image not found")
	// ErrAmbiguous says that a short digest, or an archive, means more than
	// one image.
	ErrAmbiguous = errors.New("more than one image matches")
	// ErrBadReference says that a name is not an image reference.
	ErrBadReference = errors.New("bad image reference")
	// ErrDigestMismatch says that contents differ from their digest or size:
	// damaged, truncated or forged.
	ErrDigestMismatch = errors.New("digest mismatch")
	// ErrArchMismatch says that an image is for another platform.
	ErrArchMismatch = errors.New("wrong architecture")
	// ErrBadImage says that a manifest, configuration or archive is not
	// well formed.
	ErrBadImage = errors.New("bad image")
	// ErrUnsupported says that an image is well formed but of a kind that
	// hvctl cannot use.
	ErrUnsupported = errors.New("unsupported image")
	// ErrInUse says that a running workload uses the image.
	ErrInUse = errors.New("image is in use")
	// ErrAuth says that a registry refused the credentials, or wants some.
	ErrAuth = errors.New("registry refused access")
	// ErrBadLayer is rootfs.ErrBadLayer: a layer is damaged.
	ErrBadLayer = rootfs.ErrBadLayer
	// ErrUnsafePath is rootfs.ErrUnsafePath: a name leads out of the root.
	ErrUnsafePath = rootfs.ErrUnsafePath
	// ErrLimit is rootfs.ErrLimit: the image is larger than allowed.
	ErrLimit = rootfs.ErrLimit
)

func notFound(ref string) error {
	return fmt.Errorf("%w: %s (hvctl images lists what is there; hvctl pull or hvctl import adds one)", ErrNotFound, ref)
}
