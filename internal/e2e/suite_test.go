package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/microvm/prepare"
	ctrprepare "github.com/hvctl/hvctl/internal/nscontainer/prepare"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/internal/workload/workloadtest"
)

// TestSuite: the life of an instance as every backend must live it, in VMs and
// in containers, with the programs as they are installed.
func TestSuite(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Linux, testenv.Images)
	bin, store := os.Getenv("HVCTL_BIN"), testenv.TestStore()
	s, err := images.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Resolve(t.Context(), "debian:bookworm")
	if err != nil {
		t.Fatal(err)
	}
	fs, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("container", func(t *testing.T) {
		workloadtest.Suite(t, workloadtest.Target{
			Backend: ctrprepare.New(ctrprepare.Options{Owner: filepath.Join(bin, "hvctl-ctr")}),
			Config: func(*testing.T) *workload.Config {
				return &workload.Config{
					Image:  workload.Image{Ref: im.Ref, Digest: im.Digest.String()},
					Rootfs: workload.Rootfs{ImagePath: fs.Path, FSType: fs.Format},
					Net:    workload.Network{Mode: workload.NetNone},
				}
			},
		})
	})
	workloadtest.Suite(t, workloadtest.Target{
		Backend: prepare.New(prepare.Options{
			VMM: filepath.Join(bin, "hvctl-vmm"), Hvinit: filepath.Join(bin, "hvinit"),
			KernelDir: filepath.Join(store, "kernels"), CacheDir: filepath.Join(store, "cache"),
		}),
		Config: func(*testing.T) *workload.Config {
			return &workload.Config{
				Image:  workload.Image{Ref: im.Ref, Digest: im.Digest.String()},
				Rootfs: workload.Rootfs{ImagePath: fs.Path, FSType: fs.Format},
				Res:    workload.Resources{MemoryBytes: 128 << 20},
				Net:    workload.Network{Mode: workload.NetNone},
				VM:     workload.VM{KernelRef: fast},
			}
		},
		Timeout: 4 * time.Minute,
	})
}
