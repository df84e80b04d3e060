package fs_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// Directories come and go while the guest asks: it sees a directory whole, or
// finds its nodes stale.
func TestDirectoriesComeAndGoWhileTheGuestAsks(t *testing.T) {
	dir, _ := shared(t)
	at, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	dev, err := fs.NewAttachable("pod")
	if err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	mustAsk(t, d, initMessage(7, 36), 100)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := dev.Attach("a", at); err != nil {
				t.Error(err)
			}
			dev.Detach("a")
		}
	})
	const gone, stale = -int32(unix.ENOENT), -int32(unix.ESTALE)
	found, lost := 0, 0
	for i := 0; i < 2000 || found == 0 || lost == 0; i++ {
		if i == 1_000_000 {
			t.Fatalf("%d times found, %d times lost", found, lost)
		}
		no, top := ask(t, d, message(opLookup, 1, "a"), 200)
		if no == gone {
			lost++
			continue
		}
		if no != 0 {
			t.Fatalf("lookup of the directory: error %d", no)
		}
		switch no, _ := ask(t, d, message(opLookup, le.Uint64(top), "file"), 200); no {
		case 0:
			found++
		case stale:
			lost++
		default:
			t.Fatalf("lookup in the directory: error %d", no)
		}
	}
	close(stop)
	wg.Wait()
	if no, _ := ask(t, d, message(opLookup, 1, filepath.Base(dir)), 200); no != gone {
		t.Errorf("a name that was never attached: error %d", no)
	}
	if _, err := fs.NewAttachable(""); !errors.Is(err, virtio.ErrArgs) {
		t.Error(err)
	}
}
