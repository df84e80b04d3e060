package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// PullOptions say how to fetch an image.
type PullOptions struct {
	// Platform picks out of a multi-platform image; zero is Linux on this
	// machine's processor. An image for another platform is refused.
	Platform ocispec.Platform
	// Keychain finds credentials; nil reads docker's configuration
	// (DOCKER_CONFIG or ~/.docker/config.json) and its helpers.
	Keychain authn.Keychain
	// Insecure allows plain HTTP. Registries on this machine are always
	// allowed it.
	Insecure bool
	// Transport is used for requests; nil is http.DefaultTransport with
	// retries of failed requests.
	Transport http.RoundTripper
	Rootfs    RootfsOptions
}

const (
	pullJobs  = 3 // layers fetched at once, as docker does
	pullTries = 4 // of one blob, when the connection breaks
)

// Pull fetches an image from its registry and names it ref. Everything is
// verified against digests as it arrives, and the root file system image is
// built before the image gets its name. When the network fails, blobs that
// arrived whole stay for the next Pull (Prune deletes them); after any other
// error the store is as it was.
func (s *Store) Pull(ctx context.Context, ref string, opt PullOptions) (_ *Image, err error) {
	r, err := parseReference(ref, opt.Insecure)
	if err != nil {
		return nil, err
	}
	if opt.Platform.OS == "" && opt.Platform.Architecture == "" {
		opt.Platform = defaultPlatform()
	}
	if opt.Keychain == nil {
		opt.Keychain = authn.DefaultKeychain
	}
	t, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	p := &puller{t: t, ref: r, opt: opt}
	defer func() { err = errors.Join(err, t.close(p.broken)) }()

	d, err := p.fetch(ctx)
	if err == nil {
		var im *Image
		if im, err = t.finish(ctx, canonical(r), d, opt.Platform, opt.Rootfs); err == nil {
			return im, nil
		}
	}
	return nil, fmt.Errorf("pull %s: %w", FamiliarReference(canonical(r)), err)
}

type puller struct {
	t   *txn
	ref name.Reference
	opt PullOptions
	// broken says that the pull ended because of the network: what has come
	// is worth keeping.
	broken bool
}

func (p *puller) options(ctx context.Context) []remote.Option {
	o := []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(p.opt.Keychain),
		remote.WithUserAgent("hvctl"),
	}
	if p.opt.Transport != nil {
		o = append(o, remote.WithTransport(p.opt.Transport))
	}
	return o
}

// fetch brings every blob of the image into the store.
func (p *puller) fetch(ctx context.Context) (ocispec.Descriptor, error) {
	d, raw, err := p.manifest(ctx)
	if err != nil {
		return d, p.failure(ctx, err)
	}
	m, err := decodeManifest(raw)
	if err != nil {
		return d, err
	}
	if err := p.blob(ctx, m.Config); err != nil {
		return d, p.failure(ctx, fmt.Errorf("configuration: %w", err))
	}
	rawConfig, err := p.t.s.readBlob(m.Config, maxConfig)
	if err != nil {
		return d, err
	}
	c, err := decodeConfig(rawConfig, m)
	if err != nil {
		return d, err
	}
	// Before the layers are fetched in vain.
	if err := checkPlatform("the image", c.Platform, p.opt.Platform); err != nil {
		return d, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pullJobs)
	asked := map[digest.Digest]bool{}
	for _, l := range m.Layers {
		if !asked[l.Digest] {
			asked[l.Digest] = true
			g.Go(func() error { return p.blob(gctx, l) })
		}
	}
	if err := g.Wait(); err != nil {
		return d, p.failure(ctx, err)
	}
	return p.t.putBytes(ctx, raw, d)
}

// manifest finds the manifest for the wanted platform.
func (p *puller) manifest(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	ref := p.ref
	want := digest.Digest("")
	if byDigest, ok := ref.(name.Digest); ok {
		want = digest.Digest(byDigest.DigestStr())
	}
	for range maxNesting {
		got, err := remote.Get(ref, p.options(ctx)...)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		d := ocispec.Descriptor{
			MediaType: string(got.MediaType),
			Digest:    digest.FromBytes(got.Manifest),
			Size:      int64(len(got.Manifest)),
		}
		if want != "" && d.Digest != want {
			return d, nil, fmt.Errorf("%w: manifest %s has the contents of %s", ErrDigestMismatch, want, d.Digest)
		}
		if isManifest(d.MediaType) {
			return d, got.Manifest, nil
		}
		if !isIndex(d.MediaType) {
			return d, nil, fmt.Errorf("%w: the registry answers with %.100q, which is not an image", ErrUnsupported, d.MediaType)
		}
		idx, err := decodeIndex(got.Manifest)
		if err != nil {
			return d, nil, err
		}
		next, err := choose(idx, "", p.opt.Platform)
		if err != nil {
			return d, nil, err
		}
		want = next.Digest
		ref = p.ref.Context().Digest(want.String())
	}
	return ocispec.Descriptor{}, nil, fmt.Errorf("%w: indexes nested deeper than %d", ErrBadImage, maxNesting)
}

// blob fetches one blob unless it is there, and again when the connection breaks.
func (p *puller) blob(ctx context.Context, d ocispec.Descriptor) error {
	if p.t.s.hasBlob(d) {
		return nil
	}
	var err error
	for range pullTries {
		if err = p.tryBlob(ctx, d); err == nil || ctx.Err() != nil || !isBroken(err) {
			break
		}
	}
	return err
}

func (p *puller) tryBlob(ctx context.Context, d ocispec.Descriptor) error {
	l, err := remote.Layer(p.ref.Context().Digest(d.Digest.String()), p.options(ctx)...)
	if err != nil {
		return err
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	r, end := p.opt.Rootfs.Progress.start(PhaseDownload, d.Digest.Encoded()[:12], d.Size, unjudged{rc})
	defer end()
	_, err = p.t.put(ctx, r, d)
	return err
}

// failure gives an error of the registry the right kind and remembers whether
// the network was at fault.
func (p *puller) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil || isBroken(err) {
		p.broken = true
		return err
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		switch te.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("%w in the registry: %w", ErrNotFound, err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: log in with docker login %s, or check the name: %w", ErrAuth, p.ref.Context().RegistryStr(), err)
		}
	}
	return err
}

// isBroken reports whether err is a broken or missing connection rather than an
// answer.
func isBroken(err error) bool {
	var ne net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) || errors.As(err, &ne)
}

// unjudged leaves judging a blob's digest to txn.put, which says ErrDigestMismatch;
// the library's own verdict comes at the end of the stream, as an error of a
// type that cannot be named.
type unjudged struct{ r io.Reader }

func (u unjudged) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && strings.HasPrefix(err.Error(), "error verifying ") {
		err = io.EOF
	}
	return n, err
}
