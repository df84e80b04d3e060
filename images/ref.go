package images

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// NormalizeReference returns the full form of an image reference, as docker
// does: "debian" is "docker.io/library/debian:latest". A reference with a digest
// keeps it.
func NormalizeReference(s string) (string, error) {
	r, err := parseReference(s, false)
	if err != nil {
		return "", err
	}
	return canonical(r), nil
}

const (
	maxReference  = 1024 // registry, name, tag and digest
	maxRepository = 255
)

func parseReference(s string, insecure bool) (name.Reference, error) {
	if len(s) > maxReference {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrBadReference, maxReference)
	}
	opts := []name.Option{name.WeakValidation}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	r, err := name.ParseReference(s, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w %.200q: want NAME[:TAG] or NAME@sha256:DIGEST, in lower case: %w", ErrBadReference, s, err)
	}
	// The library is laxer than the distribution specification here. "library/"
	// counts into the length, or the full form would not be a reference.
	if repo := r.Context().RepositoryStr(); len(repo) > maxRepository {
		return nil, fmt.Errorf("%w %.200q: a name of %d bytes, limit %d", ErrBadReference, s, len(repo), maxRepository)
	}
	for c := range strings.SplitSeq(r.Context().RepositoryStr(), "/") {
		if !component.MatchString(c) {
			return nil, fmt.Errorf("%w %.200q: %.100q cannot be part of a name", ErrBadReference, s, c)
		}
	}
	if reg := r.Context().RegistryStr(); !registryStart.MatchString(reg) {
		return nil, fmt.Errorf("%w %.200q: %.100q cannot be a registry", ErrBadReference, s, reg)
	}
	return r, nil
}

var (
	component     = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	registryStart = regexp.MustCompile(`^[A-Za-z0-9\[]`)
)

// canonical names Docker's registry docker.io, as people write it.
func canonical(r name.Reference) string {
	full := r.Name()
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return full
}

// FamiliarReference is the short form of a normalized reference, for people:
// "docker.io/library/debian:bookworm" is "debian:bookworm".
func FamiliarReference(s string) string {
	rest, ok := strings.CutPrefix(s, "docker.io/")
	if !ok {
		return s
	}
	return strings.TrimPrefix(rest, "library/")
}
