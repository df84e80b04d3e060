package agent

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// Pod prepares the guest for several containers, which Create starts, in place of
// Run. An agent that is too old for that is ErrState.
func (s *Session) Pod(ctx context.Context, p guestproto.Pod) error {
	hello, err := s.Ready(ctx)
	if err != nil {
		return err
	}
	if hello.Version < guestproto.VersionPods {
		return fmt.Errorf("%w: the guest's agent speaks version %d of the protocol and knows no pods; boot it with the hvinit of this build", ErrState, hello.Version)
	}
	return s.call(ctx, guestproto.MethodPod, p, nil)
}

// Create makes a container of the pod and starts its first process, which
// c.Process describes; its Streams are filled in here. Errors are those of Run.
func (s *Session) Create(ctx context.Context, c guestproto.Container, o IO) (*Process, error) {
	return s.start(ctx, guestproto.MethodCreate, &c.Process, &c, o)
}

// Remove kills what is left of a container and has the guest let go of its root.
// Its processes are waited for as ever.
func (s *Session) Remove(ctx context.Context, id string) error {
	return s.call(ctx, guestproto.MethodRemove, guestproto.Remove{ID: id}, nil)
}
