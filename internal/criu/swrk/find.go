package swrk

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"github.com/hvctl/hvctl/internal/criu"
)

// least is the oldest version that is used: it knows cgroup v2 freezers and
// external files.
const least = 31500

// patience bounds questions that CRIU answers about the host.
const patience = 20 * time.Second

// Tool is CRIU on this host.
type Tool struct {
	Path string
	// Version is major * 10000 + minor * 100 + patch level.
	Version int
}

// Find looks for criu in PATH and asks for its version. The error wraps
// criu.ErrMissing and says what to do.
func Find(ctx context.Context) (*Tool, error) {
	path, err := exec.LookPath("criu")
	if err != nil {
		return nil, fmt.Errorf("%w: criu is not in PATH; install it (Debian: apt-get install criu) for checkpoint and restore", criu.ErrMissing)
	}
	t := &Tool{Path: path}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := t.call(ctx, &rpc.CriuReq{Type: new(rpc.CriuReqType_VERSION)}, new(criu.Job))
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not say its version: %w", criu.ErrMissing, path, err)
	}
	v := resp.GetVersion()
	t.Version = int(v.GetMajorNumber()*10000 + v.GetMinorNumber()*100 + v.GetSublevel())
	if t.Version < least {
		return nil, fmt.Errorf("%w: %s is version %s, at least 3.15 is needed", criu.ErrMissing, path, t)
	}
	return t, nil
}

// String is the version.
func (t *Tool) String() string {
	return fmt.Sprintf("%d.%d.%d", t.Version/10000, t.Version/100%100, t.Version%100)
}

// Check is `criu check`: whether this kernel has all that CRIU needs.
func (t *Tool) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, t.Path, "check").CombinedOutput()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: criu %s does not work on this kernel (`criu check`): %s; a newer CRIU, or a kernel with what it lacks, is needed",
		criu.ErrMissing, t, criu.Complaint(out))
}

// CanTrack asks CRIU, which asks the kernel.
func (t *Tool) CanTrack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := t.call(ctx, &rpc.CriuReq{Type: new(rpc.CriuReqType_FEATURE_CHECK), Features: &rpc.CriuFeatures{MemTrack: new(true)}}, new(criu.Job))
	if err != nil {
		return fmt.Errorf("criu: ask for memory tracking: %w", err)
	}
	if !resp.GetFeatures().GetMemTrack() {
		return errors.New("this kernel does not tell which pages were written (CONFIG_MEM_SOFT_DIRTY), so nothing can be saved ahead: checkpoint without --pre-dump and --parent-path")
	}
	return nil
}
