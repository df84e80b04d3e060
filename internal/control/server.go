package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/exposition"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

const (
	maxBody        = 1 << 20
	maxConnections = 256
)

// Owner is what the server asks of the process that owns the instance. All
// methods may be called concurrently.
type Owner interface {
	Info(ctx context.Context) (Info, error)
	Signal(ctx context.Context, exec string, sig unix.Signal) error
	// Stop returns when the instance has ended.
	Stop(ctx context.Context, r StopRequest) (workload.Exit, error)
	Kill(ctx context.Context) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Suspend pauses as far as it takes for the writable layer to be copied; a Pause that
	// follows does the rest.
	Suspend(ctx context.Context) error
	// Update changes limits, all that u names or none.
	Update(ctx context.Context, u workload.Update) error
	// Devices lists the devices, Plug and Unplug let them come and go. Plug owns
	// r.Files in any case.
	Devices(ctx context.Context) ([]workload.Device, error)
	Plug(ctx context.Context, r workload.PlugRequest) (workload.Device, error)
	Unplug(ctx context.Context, r workload.UnplugRequest) error
	// Snapshot writes the instance down, which goes on.
	Snapshot(ctx context.Context, r SnapshotRequest) (workload.SnapshotReport, error)
	// Dump writes memory and registers into a core file.
	Dump(ctx context.Context, r DumpRequest) (workload.DumpReport, error)
	// Trace is as workload.Tracer says.
	Trace(ctx context.Context, r workload.TraceRequest, ready func(), fn func(workload.TraceExit) error) error
	// Migrate sends the instance to another owner; its report is
	// migrate.Report as JSON.
	Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error)
	// PlanMigration says what Migrate would do; the answer is plan.Plan as JSON.
	PlanMigration(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error)
	// Migration says what is known of the latest migration away from here, and
	// CancelMigration calls the one under way off.
	Migration(ctx context.Context) (workload.MigrationStatus, error)
	CancelMigration(ctx context.Context) error
	// RecoverMigration dials a destination that waits for memory from here.
	RecoverMigration(ctx context.Context) error
	// Resolve is an operator's word on a migration in doubt.
	Resolve(ctx context.Context, r ResolveRequest) error
	// Upgrade hands the running instance over to a process of r.Program; the
	// report is handoff.Report as JSON.
	Upgrade(ctx context.Context, r UpgradeRequest) (json.RawMessage, error)
	// Wait returns when the instance has ended and was cleaned up.
	Wait(ctx context.Context) (workload.Exit, error)
	Resize(ctx context.Context, r ResizeRequest) error
	Stats(ctx context.Context) (workload.Stats, error)
	// Sample is Stats and more, for Prometheus.
	Sample(ctx context.Context) (exposition.Sample, error)
	// Attach and Exec serve a client until it goes away or the process ends.
	// An error returned before accept was called becomes the response; accept
	// upgrades the connection.
	Attach(ctx context.Context, r AttachRequest, accept func() (*Peer, error)) error
	// Exec with r.Detach does not call accept and returns the session's ID.
	Exec(ctx context.Context, r ExecRequest, accept func() (*Peer, error)) (id string, err error)
	// Copy serves a client until its copy is done.
	Copy(ctx context.Context, r CopyRequest, accept func() (*Peer, error)) error
	// Tasks lists the instance's processes.
	Tasks(ctx context.Context) ([]workload.Task, error)
	// Events sends what happens from now on to fn, until ctx is done, fn
	// fails or the instance has ended. ready is called when nothing will be
	// missed any more.
	Events(ctx context.Context, ready func(), fn func(Event) error) error
}

// Server answers on the control socket.
type Server struct {
	owner Owner
	http  http.Server
	peers chan struct{} // one per open connection
}

// Route is one operation of the API. docs/control-api.yaml lists the same.
type Route struct {
	Method, Path string
	handle       func(s *Server, w http.ResponseWriter, r *http.Request) error
}

// Routes is the whole API.
var Routes = []Route{
	{"GET", "/v1/instance", (*Server).instance},
	{"POST", "/v1/signal", (*Server).signal},
	{"POST", "/v1/stop", (*Server).stop},
	{"POST", "/v1/kill", (*Server).kill},
	{"POST", "/v1/pause", (*Server).pause},
	{"POST", "/v1/resume", (*Server).resume},
	{"POST", "/v1/suspend", (*Server).suspend},
	{"POST", "/v1/update", (*Server).update},
	{"GET", "/v1/devices", (*Server).devices},
	{"POST", "/v1/devices", (*Server).plug},
	{"POST", "/v1/devices/remove", (*Server).unplug},
	{"POST", "/v1/snapshot", (*Server).snapshot},
	{"POST", "/v1/dump", (*Server).dump},
	{"POST", "/v1/migrate", (*Server).migrate},
	{"POST", "/v1/plan", (*Server).plan},
	{"GET", "/v1/migrate", (*Server).migration},
	{"DELETE", "/v1/migrate", (*Server).cancelMigration},
	{"POST", "/v1/recover", (*Server).recoverMigration},
	{"POST", "/v1/resolve", (*Server).resolve},
	{"POST", "/v1/upgrade", (*Server).upgrade},
	{"GET", "/v1/wait", (*Server).wait},
	{"POST", "/v1/exec", (*Server).exec},
	{"POST", "/v1/attach", (*Server).attach},
	{"POST", "/v1/resize", (*Server).resize},
	{"GET", "/v1/stats", (*Server).stats},
	{"GET", "/v1/top", (*Server).top},
	{"GET", "/metrics", (*Server).metrics},
	{"POST", "/v1/copy", (*Server).copy},
	{"GET", "/v1/events", (*Server).events},
	{"POST", "/v1/trace", (*Server).trace},
}

// NewServer makes a server for o. Serve starts it.
func NewServer(o Owner) *Server {
	s := &Server{owner: o, peers: make(chan struct{}, maxConnections)}
	s.http = http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withConn,
		ErrorLog:          nil,
	}
	return s
}

// Serve accepts connections on l until Shutdown. Those of other users than
// root and our own are closed without an answer.
func (s *Server) Serve(l *net.UnixListener) error {
	err := s.http.Serve(&listener{UnixListener: l, peers: s.peers})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops accepting and gives the requests that are being answered
// until ctx is done to end. Streams are the owner's to end.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	known := false
	for _, rt := range Routes {
		if rt.Path != r.URL.Path {
			continue
		}
		known = true
		if rt.Method == r.Method {
			if err := rt.handle(s, w, r); err != nil {
				writeError(w, err)
			}
			return
		}
	}
	if known {
		writeJSON(w, http.StatusMethodNotAllowed, ErrorBody{Error: r.Method + " is not allowed on " + r.URL.Path, Code: "bad_request"})
		return
	}
	writeJSON(w, http.StatusNotFound, ErrorBody{Error: "no such path: " + r.URL.Path, Code: "bad_request"})
}

func (s *Server) instance(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Info(r.Context())
	return answer(w, v, err)
}

func (s *Server) signal(w http.ResponseWriter, r *http.Request) error {
	var q SignalRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	sig, err := workload.ParseSignal(q.Signal)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return done(w, s.owner.Signal(r.Context(), q.Exec, sig))
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) error {
	var q StopRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	v, err := s.owner.Stop(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.Kill(r.Context()))
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.Pause(r.Context()))
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.Resume(r.Context()))
}

func (s *Server) suspend(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.Suspend(r.Context()))
}

func (s *Server) update(w http.ResponseWriter, r *http.Request) error {
	var u workload.Update
	if err := decode(r, &u); err != nil {
		return err
	}
	if err := u.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return done(w, s.owner.Update(r.Context(), u))
}

func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) error {
	var q SnapshotRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if !filepath.IsAbs(q.Dir) {
		return fmt.Errorf("%w: snapshot: the directory %q is no absolute path", ErrBadRequest, q.Dir)
	}
	if q.Open != 0 {
		var err error
		if q.Files, err = take(r, q.Open); err != nil {
			return err
		}
	}
	v, err := s.owner.Snapshot(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) dump(w http.ResponseWriter, r *http.Request) error {
	var q DumpRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if !filepath.IsAbs(q.File) {
		return fmt.Errorf("%w: dump: the file %q is no absolute path", ErrBadRequest, q.File)
	}
	v, err := s.owner.Dump(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) migrate(w http.ResponseWriter, r *http.Request) error {
	return migration(w, r, s.owner.Migrate)
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	return migration(w, r, s.owner.PlanMigration)
}

func migration(w http.ResponseWriter, r *http.Request, do func(context.Context, workload.MigrateRequest) (json.RawMessage, error)) error {
	var q workload.MigrateRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.To.Address == "" {
		return fmt.Errorf("%w: migrate: no destination", ErrBadRequest)
	}
	got, err := take(r, 1)
	if err != nil {
		return err
	}
	q.Dialer = got[0] // for as long as the destination may have to be asked
	v, err := do(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) migration(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Migration(r.Context())
	return answer(w, v, err)
}

func (s *Server) cancelMigration(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.CancelMigration(r.Context()))
}

func (s *Server) recoverMigration(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.owner.RecoverMigration(r.Context()))
}

func (s *Server) resolve(w http.ResponseWriter, r *http.Request) error {
	var q ResolveRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.Keep != workload.KeepSource && q.Keep != workload.KeepDestination {
		return fmt.Errorf("%w: resolve: keep %q is neither source nor destination", ErrBadRequest, q.Keep)
	}
	return done(w, s.owner.Resolve(r.Context(), q))
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) error {
	var q UpgradeRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	got, err := take(r, 2)
	if err != nil {
		return err
	}
	q.Link, q.Process = got[0], got[1]
	defer q.Link.Close()
	v, err := s.owner.Upgrade(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) wait(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Wait(r.Context())
	return answer(w, v, err)
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Stats(r.Context())
	return answer(w, v, err)
}

// metrics is where Prometheus looks for it, whatever the version of the rest.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Sample(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", exposition.ContentType)
	_ = exposition.Write(w, []exposition.Sample{v}) // the client is gone: nobody to tell
	return nil
}

func (s *Server) top(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Tasks(r.Context())
	return answer(w, v, err)
}

func (s *Server) copy(w http.ResponseWriter, r *http.Request) error {
	var q CopyRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.Path == "" {
		return fmt.Errorf("%w: copy: path is empty", ErrBadRequest)
	}
	return s.stream(w, r, func(ctx context.Context, accept func() (*Peer, error)) error {
		return s.owner.Copy(ctx, q, accept)
	})
}

func (s *Server) resize(w http.ResponseWriter, r *http.Request) error {
	var q ResizeRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if q.Columns == 0 || q.Rows == 0 {
		return fmt.Errorf("%w: a terminal of %d columns and %d rows", ErrBadRequest, q.Columns, q.Rows)
	}
	return done(w, s.owner.Resize(r.Context(), q))
}

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) { // no body: all defaults
		return fmt.Errorf("%w: body: %w", ErrBadRequest, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: body: something follows the JSON object", ErrBadRequest)
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) error {
	if err == nil {
		writeJSON(w, http.StatusOK, v)
	}
	return err
}

func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func writeError(w http.ResponseWriter, err error) {
	status, body := encodeError(err)
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone: nobody to tell
}
