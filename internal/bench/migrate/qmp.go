package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmp is a connection to QEMU's monitor (QEMU Machine Protocol): one JSON value
// for each command, answer and event.
type qmp struct {
	c      net.Conn
	d      *json.Decoder
	events []qmpMessage // that came while an answer was waited for
}

type qmpMessage struct {
	QMP    json.RawMessage
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
	Data   json.RawMessage
}

// dialQMP connects to the monitor at path, which may not be there yet.
func dialQMP(ctx context.Context, path string) (*qmp, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
				return nil, errors.Join(err, serr)
			}
			continue
		}
		q := &qmp{c: c, d: json.NewDecoder(c)}
		if _, err := q.read(ctx); err != nil { // the greeting
			return nil, errors.Join(err, c.Close())
		}
		_, err = q.call(ctx, "qmp_capabilities", nil)
		return q, err
	}
}

func (q *qmp) close() { _ = q.c.Close() }

func (q *qmp) read(ctx context.Context) (m qmpMessage, err error) {
	stop := context.AfterFunc(ctx, func() { _ = q.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := q.d.Decode(&m); err != nil {
		return m, fmt.Errorf("QEMU's monitor: %w", errors.Join(err, context.Cause(ctx)))
	}
	return m, nil
}

// call gives a command and returns its answer.
func (q *qmp) call(ctx context.Context, name string, args any) (json.RawMessage, error) {
	c := map[string]any{"execute": name}
	if args != nil {
		c["arguments"] = args
	}
	if err := json.NewEncoder(q.c).Encode(c); err != nil {
		return nil, fmt.Errorf("QEMU's monitor: %s: %w", name, err)
	}
	for {
		m, err := q.read(ctx)
		switch {
		case err != nil:
			return nil, err
		case m.Event != "":
			q.events = append(q.events, m)
		case m.Error != nil:
			return nil, fmt.Errorf("QEMU's monitor: %s: %s", name, m.Error.Desc)
		default:
			return m.Return, nil
		}
	}
}

// event waits for the next event of a name.
func (q *qmp) event(ctx context.Context, name string) (json.RawMessage, error) {
	for {
		for i, m := range q.events {
			if m.Event == name {
				q.events = q.events[i+1:]
				return m.Data, nil
			}
		}
		m, err := q.read(ctx)
		if err != nil {
			return nil, err
		}
		if m.Event == name {
			return m.Data, nil
		}
	}
}
