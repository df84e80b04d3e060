package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrPeer is wrapped when the other side is not allowed.
var ErrPeer = errors.New("peer not allowed")

// fingerprintPrefix says which hash a fingerprint is.
const fingerprintPrefix = "sha256:"

// Identity is this host's key for migrations, with a certificate that wraps it
// for TLS. Nobody looks at the certificate's names or dates: the key is all.
type Identity struct {
	cert        tls.Certificate
	fingerprint string
}

// Fingerprint returns what others put on their allow list: "sha256:" and the
// hash of the public key (SPKI) in hexadecimal.
func (id *Identity) Fingerprint() string { return id.fingerprint }

// LoadIdentity reads the key in dir, and makes one on first use. The key's
// file is readable by its owner only.
func LoadIdentity(dir string) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "migrate-key.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key for migrations: %w", err)
	}
	id, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("key for migrations %s: %w; remove it to have a new one made", path, err)
	}
	return id, nil
}

// makeKey writes a new key, unless another process was faster.
func makeKey(path string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func parseKey(text []byte) (*Identity, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, want Ed25519", parsed)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hvctl"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Identity{
		cert:        tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		fingerprint: fingerprintOf(leaf),
	}, nil
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return fingerprintPrefix + hex.EncodeToString(sum[:])
}

// checkAllow judges an allow list as a user wrote it.
func checkAllow(allow []string) error {
	if len(allow) == 0 {
		return errors.New("the allow list of peers is empty: name at least one fingerprint (hvctl migrate identity prints a host's own)")
	}
	for _, a := range allow {
		sum, err := hex.DecodeString(strings.TrimPrefix(a, fingerprintPrefix))
		if !strings.HasPrefix(a, fingerprintPrefix) || err != nil || len(sum) != sha256.Size || a != strings.ToLower(a) {
			return fmt.Errorf("%q is no fingerprint: want %s and 64 lower-case hexadecimal digits", a, fingerprintPrefix)
		}
	}
	return nil
}

// config returns the TLS configuration of either side.
func (id *Identity) config(allow []string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		ClientAuth:   tls.RequireAnyClientCert,
		// There is no CA and there are no names: VerifyConnection is the check, and
		// the handshake proves that the peer has the key.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"hvctl-migrate"},
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("%w: it has no certificate", ErrPeer)
			}
			got := fingerprintOf(s.PeerCertificates[0])
			if slices.Contains(allow, got) {
				return nil
			}
			return fmt.Errorf("%w: %s is not on the allow list", ErrPeer, got)
		},
	}
}
