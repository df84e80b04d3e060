package migrate_test

import (
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
)

func TestGuestArrivesWholePacked(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode migrate.Compress
	}{{"s2", migrate.CompressS2}, {"zstd", migrate.CompressZstd}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { r.send.Compress, r.send.Streams, r.src.rate = tc.mode, 1, 5 })
			g := r.src.g
			for _, reg := range g.Regions() {
				for p := range reg.Size / page {
					_ = g.WriteAt([]byte{byte(p), 1, byte(p >> 8)}, reg.GPA+memory.GPA(p*page))
				}
			}
			rep, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if err != nil {
				t.Fatal(err)
			}
			r.judge(t, nil)
			if first := rep.Rounds[0]; first.Bytes > first.Unpacked*3/4 || first.Unpacked < first.Pages*page {
				t.Errorf("round 0 sent %d of %d bytes", first.Bytes, first.Unpacked)
			}
		})
	}
}
