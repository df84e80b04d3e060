package lazy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxWorkingSet bounds the file, in bytes: a GiB of memory, in chunks.
const maxWorkingSet = 512 << 10

// workingSetHead is the file's first line; the snapshot's identity follows.
const workingSetHead = "hvctl working set 1 of "

// loadWorkingSet reads the chunks that the first restore of snapshot id touched,
// in their order. There is none when the file is missing, or another snapshot's.
func loadWorkingSet(path, id string, l layout) ([]chunk, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWorkingSet+1))
	if err != nil {
		return nil, err
	}
	return decodeWorkingSet(b, id, l)
}

// decodeWorkingSet reads lines of "region chunk". It is only advice, but the file
// is anybody's: everything is checked.
func decodeWorkingSet(b []byte, id string, l layout) ([]chunk, error) {
	if len(b) > maxWorkingSet {
		return nil, fmt.Errorf("working set of more than %d bytes", maxWorkingSet)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	if !lines.Scan() || lines.Text() != workingSetHead+id {
		return nil, fmt.Errorf("not the working set of snapshot %s", id)
	}
	var set []chunk
	for lines.Scan() {
		var c chunk
		if n, err := fmt.Sscanf(lines.Text(), "%d %d", &c.region, &c.n); n != 2 || err != nil || !l.has(c) {
			return nil, fmt.Errorf("line %d of the working set, %.32q, names no chunk", len(set)+2, lines.Text())
		}
		set = append(set, c)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return set, nil
}

// saveWorkingSet writes the file in one step; one that is there wins.
func saveWorkingSet(path, id string, set []chunk) error {
	b := []byte(workingSetHead + id + "\n")
	for _, c := range set {
		if len(b) > maxWorkingSet-32 {
			break
		}
		b = fmt.Appendf(b, "%d %d\n", c.region, c.n)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".working-set.*.partial")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
