package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Client talks to one owner. It keeps no connection between calls: each call
// is one. An error wraps workload.ErrNotRunning when there is no owner.
type Client struct {
	// Dial connects to the control socket.
	Dial func() (*net.UnixConn, error)
	// Ended, where set, is asked when the owner closed without an answer: true
	// means that this is because the instance has ended, and the call fails
	// with workload.ErrNotRunning instead of ErrGone.
	Ended func(ctx context.Context) bool
}

// Info asks for everything the owner knows.
func (c *Client) Info(ctx context.Context) (Info, error) { return get[Info](ctx, c, "/v1/instance") }

// Stats asks for what the instance uses now.
func (c *Client) Stats(ctx context.Context) (workload.Stats, error) {
	return get[workload.Stats](ctx, c, "/v1/stats")
}

// Wait returns when the instance has ended. An error that wraps ErrGone means
// that the owner ended without saying.
func (c *Client) Wait(ctx context.Context) (workload.Exit, error) {
	return get[workload.Exit](ctx, c, "/v1/wait")
}

// Signal sends sig to the first process, or to an exec session.
func (c *Client) Signal(ctx context.Context, exec string, sig unix.Signal) error {
	return c.do(ctx, "POST", "/v1/signal", SignalRequest{Signal: fmt.Sprint(int(sig)), Exec: exec}, nil)
}

// Stop stops the instance and returns how it ended.
func (c *Client) Stop(ctx context.Context, r StopRequest) (workload.Exit, error) {
	var e workload.Exit
	return e, c.do(ctx, "POST", "/v1/stop", r, &e)
}

// Kill ends everything in the instance at once.
func (c *Client) Kill(ctx context.Context) error { return c.do(ctx, "POST", "/v1/kill", nil, nil) }

// Pause stops all of the instance's processes where they are.
func (c *Client) Pause(ctx context.Context) error { return c.do(ctx, "POST", "/v1/pause", nil, nil) }

// Suspend stops the workload's processes where they are, and leaves what packs its writable
// layer (Copy) going. Pause stops that, too.
func (c *Client) Suspend(ctx context.Context) error {
	return c.do(ctx, "POST", "/v1/suspend", nil, nil)
}

// Resume undoes Pause and Suspend.
func (c *Client) Resume(ctx context.Context) error { return c.do(ctx, "POST", "/v1/resume", nil, nil) }

// Update changes limits.
func (c *Client) Update(ctx context.Context, u workload.Update) error {
	return c.do(ctx, "POST", "/v1/update", u, nil)
}

// Snapshot writes the instance into dir; with bases, by their names or open, what differs
// from them. Open files stay the caller's.
func (c *Client) Snapshot(ctx context.Context, dir string, bases []string, open ...*os.File) (workload.SnapshotReport, error) {
	var v workload.SnapshotReport
	return v, c.do(ctx, "POST", "/v1/snapshot", SnapshotRequest{Dir: dir, Bases: bases, Open: len(open)}, &v, open...)
}

// Dump writes the instance's memory and registers into file.
func (c *Client) Dump(ctx context.Context, file string) (workload.DumpReport, error) {
	var v workload.DumpReport
	return v, c.do(ctx, "POST", "/v1/dump", DumpRequest{File: file}, &v)
}

// Migrate sends the instance to another owner and returns the report.
func (c *Client) Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	var v json.RawMessage
	return v, c.do(ctx, "POST", "/v1/migrate", r, &v, r.Dialer)
}

// PlanMigration says what Migrate would do, as plan.Plan in JSON.
func (c *Client) PlanMigration(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	var v json.RawMessage
	return v, c.do(ctx, "POST", "/v1/plan", r, &v, r.Dialer)
}

// Migration says what is known of the latest migration away from there.
func (c *Client) Migration(ctx context.Context) (workload.MigrationStatus, error) {
	return get[workload.MigrationStatus](ctx, c, "/v1/migrate")
}

// CancelMigration calls the migration under way off.
func (c *Client) CancelMigration(ctx context.Context) error {
	return c.do(ctx, "DELETE", "/v1/migrate", nil, nil)
}

// RecoverMigration dials a destination that waits for memory from there.
func (c *Client) RecoverMigration(ctx context.Context) error {
	return c.do(ctx, "POST", "/v1/recover", nil, nil)
}

// Resolve says who keeps an instance whose migration is in doubt.
func (c *Client) Resolve(ctx context.Context, keep workload.Keep) error {
	return c.do(ctx, "POST", "/v1/resolve", ResolveRequest{Keep: keep}, nil)
}

// Upgrade has the process r.PID, which waits for that, take the instance over and
// returns the report. The files stay the caller's.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest) (json.RawMessage, error) {
	var v json.RawMessage
	return v, c.do(ctx, "POST", "/v1/upgrade", r, &v, r.Link, r.Process)
}

// Resize sets the size of a terminal.
func (c *Client) Resize(ctx context.Context, r ResizeRequest) error {
	return c.do(ctx, "POST", "/v1/resize", r, nil)
}

// ExecDetached starts another process that nobody listens to.
func (c *Client) ExecDetached(ctx context.Context, r ExecRequest) (string, error) {
	r.Detach = true
	var e ExecStarted
	return e.ID, c.do(ctx, "POST", "/v1/exec", r, &e)
}

// Exec starts another process and connects to it.
func (c *Client) Exec(ctx context.Context, r ExecRequest) (*Stream, error) {
	r.Detach = false
	return c.upgrade(ctx, "/v1/exec", r)
}

// Tasks lists the instance's processes.
func (c *Client) Tasks(ctx context.Context) ([]workload.Task, error) {
	return get[[]workload.Task](ctx, c, "/v1/top")
}

// Copy moves files as a tar stream, which is the stream's input or output.
func (c *Client) Copy(ctx context.Context, r CopyRequest) (*Stream, error) {
	return c.upgrade(ctx, "/v1/copy", r)
}

// Attach connects to the first process.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (*Stream, error) {
	return c.upgrade(ctx, "/v1/attach", r)
}

// Events calls fn for what happens from now on, until the owner ends (nil),
// fn fails or ctx is done.
func (c *Client) Events(ctx context.Context, fn func(Event) error) error {
	return stream(ctx, c, "GET", "/v1/events", nil, fn)
}

// Trace calls fn for exits as they happen, until r.Limit is reached, the instance
// ends (nil), fn fails or ctx is done.
func (c *Client) Trace(ctx context.Context, r workload.TraceRequest, fn func(workload.TraceExit) error) error {
	return stream(ctx, c, "POST", "/v1/trace", r, fn)
}

// stream reads an answer of many lines.
func stream[T any](ctx context.Context, c *Client, method, path string, body any, fn func(T) error) error {
	r, err := c.roundTrip(ctx, method, path, body, false)
	if err != nil {
		return err
	}
	defer r.close()
	d := json.NewDecoder(r.resp.Body)
	for {
		var e T
		if err := d.Decode(&e); err != nil {
			return ctx.Err() // the owner ended, or we did
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	return v, c.do(ctx, "GET", path, nil, &v)
}

// maxAnswer bounds what an owner may answer: it shares its process with a
// device model a guest talks to.
const maxAnswer = 8 << 20

func (c *Client) do(ctx context.Context, method, path string, body, out any, files ...*os.File) error {
	r, err := c.roundTrip(ctx, method, path, body, false, files...)
	if err != nil {
		return err
	}
	defer r.close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(r.resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%w: answer to %s: %w", ErrProtocol, path, err)
	}
	return nil
}

// reply is an answer whose connection is still open.
type reply struct {
	resp *http.Response
	conn *net.UnixConn
	r    *bufio.Reader
	stop func() bool // the context no longer ends the connection
}

func (r *reply) close() {
	r.stop()
	r.conn.Close()
}

// upgrade asks for a stream.
func (c *Client) upgrade(ctx context.Context, path string, body any) (*Stream, error) {
	r, err := c.roundTrip(ctx, "POST", path, body, true)
	if err != nil {
		return nil, err
	}
	if r.resp.StatusCode != http.StatusSwitchingProtocols {
		r.close()
		return nil, fmt.Errorf("%w: POST %s: %s", ErrProtocol, path, r.resp.Status)
	}
	if !r.stop() {
		r.conn.Close()
		return nil, context.Cause(ctx)
	}
	return NewStream(r.conn, r.r), nil
}

// roundTrip sends one request on a connection of its own and checks that the
// answer is 2xx, or 101 to an upgrade.
func (c *Client) roundTrip(ctx context.Context, method, path string, body any, upgrade bool, files ...*os.File) (r *reply, err error) {
	for range maxOwners {
		if r, err = c.ask(ctx, method, path, body, upgrade, files); !errors.Is(err, ErrUpgraded) {
			break
		}
	}
	return r, err
}

// maxOwners is how many owners that have a successor one request may meet.
const maxOwners = 5

// ask is roundTrip with one owner.
func (c *Client) ask(ctx context.Context, method, path string, body any, upgrade bool, files []*os.File) (*reply, error) {
	conn, err := c.Dial()
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, workload.ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	r := &reply{conn: conn, r: bufio.NewReaderSize(conn, 32<<10)}
	r.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = r.exchange(method, path, body, upgrade, files)
	if err != nil {
		r.close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, ErrGone) && c.Ended != nil && c.Ended(ctx) {
			return nil, workload.ErrNotRunning
		}
		return nil, err
	}
	return r, nil
}

func (r *reply) exchange(method, path string, body any, upgrade bool, files []*os.File) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	connection := "close"
	if upgrade {
		connection = "Upgrade\r\nUpgrade: " + Protocol
	}
	var q bytes.Buffer
	fmt.Fprintf(&q, "%s %s HTTP/1.1\r\nHost: hvctl\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s", method, path, len(b), connection, b)
	if err := send(r.conn, q.Bytes(), files); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	} // EPIPE: refused before it was read; why is there to be read
	var err error
	r.resp, err = http.ReadResponse(r.r, &http.Request{Method: method})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if r.resp.StatusCode/100 == 2 || upgrade && r.resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	var e ErrorBody
	if err := json.NewDecoder(io.LimitReader(r.resp.Body, maxBody)).Decode(&e); err != nil || e.Error == "" {
		return fmt.Errorf("%w: %s %s: %s", ErrProtocol, method, path, r.resp.Status)
	}
	return e.Err()
}
