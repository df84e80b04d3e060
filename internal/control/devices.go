package control

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hvctl/hvctl/internal/workload"
)

func (s *Server) devices(w http.ResponseWriter, r *http.Request) error {
	v, err := s.owner.Devices(r.Context())
	return answer(w, v, err)
}

func (s *Server) plug(w http.ResponseWriter, r *http.Request) error {
	var q workload.PlugRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if err := q.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	var err error
	if q.Files, err = take(r, q.FileCount()); err != nil {
		return err
	}
	v, err := s.owner.Plug(r.Context(), q)
	return answer(w, v, err)
}

func (s *Server) unplug(w http.ResponseWriter, r *http.Request) error {
	var q workload.UnplugRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if err := q.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return done(w, s.owner.Unplug(r.Context(), q))
}

// Devices lists the instance's devices.
func (c *Client) Devices(ctx context.Context) ([]workload.Device, error) {
	return get[[]workload.Device](ctx, c, "/v1/devices")
}

// Plug adds a device and returns when the guest has taken it. The files stay the
// caller's.
func (c *Client) Plug(ctx context.Context, r workload.PlugRequest) (workload.Device, error) {
	var v workload.Device
	return v, c.do(ctx, "POST", "/v1/devices", r, &v, r.Files...)
}

// Unplug asks the guest for a device and returns when that is gone.
func (c *Client) Unplug(ctx context.Context, r workload.UnplugRequest) error {
	return c.do(ctx, "POST", "/v1/devices/remove", r, nil)
}
