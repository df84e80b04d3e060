package hostnet

import "log/slog"

// Bound are host ports that are bound for an instance. A client that comes
// before Serve waits in the kernel's backlog.
type Bound struct {
	listeners []*listener
	serving   []interface{ close() }
}

// Bind binds every port or none. The error names the port and who has it.
func Bind(ports []Port) (*Bound, error) {
	b := &Bound{}
	for _, p := range ports {
		l, err := listen(p)
		if err != nil {
			b.Close()
			return nil, publishErr(p, err, func() string { return "" })
		}
		b.listeners = append(b.listeners, l)
	}
	return b, nil
}

// Ports are the ports with the host ports that were chosen.
func (b *Bound) Ports() []Port {
	var out []Port
	for _, l := range b.listeners {
		out = append(out, l.port)
	}
	return out
}

// Serve starts to copy between the ports and the instance that d reaches. It is
// called once.
func (b *Bound) Serve(d Dialer, log *slog.Logger) {
	for _, l := range b.listeners {
		b.serving = append(b.serving, l.serve(d, len(b.listeners), log))
	}
}

// Close ends the ports and their connections.
func (b *Bound) Close() {
	if len(b.serving) == 0 {
		closeBound(b.listeners)
	}
	for _, s := range b.serving {
		s.close()
	}
	b.listeners, b.serving = nil, nil
}
