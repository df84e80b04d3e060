package virtiotest

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

func pauseAndResume(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	for range 5 {
		s.works(t, d)
		d.Stop()
		d.Stop() // twice is once
		for i := range d.NumQueues() {
			d.Queue(i).Kick() // kept, and harmless
		}
		d.Resume()
		d.Resume()
	}
	s.works(t, d)
	d.Stop()
	d.Reset() // a paused device can be reset
	d.Resume()
	d.Renew()
	s.works(t, d)
}

// saveAndLoad: save, change, differs, load, equal; and the restored device goes
// on with the same driver.
func saveAndLoad(t testing.TB, s Suite, link func() Link) {
	d := s.newDriver(t, link)
	d.Stop()
	emptyT, emptyD := d.Save()
	d.Resume()

	d.Renew()
	s.works(t, d)
	if s.Change != nil {
		s.Change(t, d)
	}
	d.Stop()
	transport, device := d.Save()
	if bytes.Equal(transport.Payload, emptyT.Payload) {
		t.Error("a live transport saves the same state as a new one")
	}
	if s.Change != nil && bytes.Equal(device.Payload, emptyD.Payload) {
		t.Error("a changed device saves the same state as a new one")
	}
	if again, _ := d.Save(); !bytes.Equal(again.Payload, transport.Payload) {
		t.Error("saving changes the state")
	}

	d.Load(func() virtio.Device { return s.device(t) }, link(), transport, device)
	loadedT, loadedD := d.Save()
	if !bytes.Equal(loadedT.Payload, transport.Payload) {
		t.Errorf("transport after load:\n%s\nwant\n%s", loadedT.Payload, transport.Payload)
	}
	if !bytes.Equal(loadedD.Payload, device.Payload) {
		t.Errorf("device after load:\n%s\nwant\n%s", loadedD.Payload, device.Payload)
	}
	config := d.Link.ConfigInterrupts()
	d.Resume()
	d.WaitConfigInterrupt(config) // raised again: one may have been on its way
	s.works(t, d)
	d.Renew()
	s.works(t, d)
}

// hostileState loads damaged transport sections: each is refused or gives a
// device that can be started and reset.
func hostileState(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	d.Stop()
	transport, _ := d.Save()
	var tree any
	if err := json.Unmarshal(transport.Payload, &tree); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, v := range []any{-1, 1, 3, 0x80, 0xffff, uint64(1) << 40, ^uint64(0), "x", nil, []any{}} {
		for n := 0; ; n++ {
			k := n
			p, err := json.Marshal(replace(tree, &k, v))
			if err != nil {
				t.Fatal(err)
			}
			if k >= 0 {
				break // fewer leaves than that
			}
			if !loadHostile(t, s, link(), p, transport.Version) {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("every damaged state was accepted")
	}
}

func loadHostile(t testing.TB, s Suite, l Link, payload []byte, version uint32) (accepted bool) {
	t.Helper()
	d := New(t, s.device(t), Options{Link: l, MemBytes: 1 << 20})
	defer d.finish() // there are too many to keep until the end
	err := state.Load(Section(payload, version), d.Link)
	if err != nil {
		if !errors.Is(err, virtio.ErrState) && !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("unexpected refusal of %s: %v", payload, err)
		}
		return false
	}
	d.Resume()
	d.Renew()
	s.works(t, d)
	return true
}

// replace returns a copy of tree with leaf number *k set to v; *k is negative
// afterwards if there was such a leaf.
func replace(tree any, k *int, v any) any {
	switch x := tree.(type) {
	case map[string]any:
		out := map[string]any{}
		keys := make([]string, 0, len(x))
		for key := range x {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			out[key] = replace(x[key], k, v)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = replace(x[i], k, v)
		}
		return out
	}
	*k--
	if *k == -1 {
		return v
	}
	return tree
}

// Section wraps payload, however wrong, in a section whose checksum is right.
func Section(payload []byte, version uint32) state.Section {
	return state.Section{
		Path: "test", Version: version, Payload: payload,
		CRC: crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)),
	}
}
