package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/archive"
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdCp() *cli.Command {
	return &cli.Command{
		Name:      "cp",
		Usage:     "copy files into and out of a running instance",
		ArgsUsage: "SOURCE DESTINATION",
		Description: "One of the two, or both, are INSTANCE:PATH; the other is a path here, or - for a\n" +
			"tar stream. A directory is copied with what is in it: to a name of its own, or,\n" +
			"where DESTINATION is a directory, into that. SOURCE/. is its content alone.\n" +
			"Nothing needs to be in the image for it. Devices, pipes and sockets are not copied,\n" +
			"nor other file systems below SOURCE.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "archive", Aliases: []string{"a"}, Usage: "keep owners and set-user-ID modes"},
			&cli.BoolFlag{Name: "follow-link", Aliases: []string{"L"}, Usage: "copy what SOURCE, a symbolic link, leads to"},
		},
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.cp,
	}
}

// place is one end of a copy.
type place struct {
	h    *launch.Handle // nil: here
	path string
}

// stream tells whether the place is our standard input or output.
func (l place) stream() bool { return l.h == nil && l.path == "-" }

func (p *program) cp(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef(c, "%d arguments given, want a source and a destination", c.NArg())
	}
	from, err := p.place(c, c.Args().Get(0))
	if err != nil {
		return err
	}
	to, err := p.place(c, c.Args().Get(1))
	if err != nil {
		return err
	}
	if from.h == nil && to.h == nil {
		return usagef(c, "neither %s nor %s is INSTANCE:PATH", from.path, to.path)
	}
	ctx := c.Context
	// Two halves with a pipe between them; each ends the other by closing it.
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := p.copyOut(ctx, w, from, c.Bool("follow-link"))
		w.CloseWithError(err)
		read <- err
	}()
	err = p.copyIn(ctx, r, to, workload.Copy{Path: to.path, In: true, Keep: c.Bool("archive"), Directory: from.stream()})
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if from.stream() {
		return err // a read of our input, which nobody can interrupt
	}
	// Where the source failed, the destination only tells that it did.
	if rerr := <-read; rerr != nil && !errors.Is(rerr, io.ErrClosedPipe) {
		return rerr
	}
	return err
}

// place reads INSTANCE:PATH or a path here. As docker has it, what begins with
// / or . is a path whatever it contains.
func (p *program) place(c *cli.Context, s string) (place, error) {
	name, path, ok := strings.Cut(s, ":")
	if !ok || name == "" || s[0] == '/' || s[0] == '.' {
		if s == "" {
			return place{}, usagef(c, "a path is empty")
		}
		return place{path: s}, nil
	}
	if path == "" {
		return place{}, usagef(c, "%s: no path given, want INSTANCE:PATH", s)
	}
	h, err := p.handle(c, name)
	return place{h: h, path: path}, err
}

// copyOut writes what is at a place as a tar stream.
func (p *program) copyOut(ctx context.Context, w io.Writer, from place, follow bool) error {
	switch {
	case from.stream():
		_, err := io.Copy(w, p.stdin)
		return err
	case from.h != nil:
		return p.remoteCopy(ctx, from.h, control.CopyRequest{Path: from.path, Follow: follow}, nil, w)
	}
	root, path, err := here(from.path)
	if err != nil {
		return err
	}
	defer root.Close()
	return archive.Pack(w, root, path, follow)
}

// copyIn puts a tar stream to a place.
func (p *program) copyIn(ctx context.Context, r io.Reader, to place, o workload.Copy) error {
	switch {
	case to.stream():
		_, err := io.Copy(p.stdout, r)
		return err
	case to.h != nil:
		return p.remoteCopy(ctx, to.h, o, r, io.Discard)
	}
	root, path, err := here(to.path)
	if err != nil {
		return err
	}
	defer root.Close()
	return archive.Unpack(r, root, path, archive.Options{Keep: o.Keep, Directory: o.Directory})
}

// remoteCopy is a copy at an instance's side.
func (p *program) remoteCopy(ctx context.Context, h *launch.Handle, q control.CopyRequest, in io.Reader, out io.Writer) error {
	s, err := h.Copy(ctx, q)
	if err != nil {
		return named(h, err)
	}
	var why bytes.Buffer
	exit, err := s.Copy(in, out, &why)
	if text := strings.TrimSpace(why.String()); text != "" {
		return fmt.Errorf("%s: %s", h.Name(), printable(text))
	}
	if err != nil {
		return named(h, err)
	}
	if exit.Code != 0 {
		return fmt.Errorf("%s: the copy ended with status %d", h.Name(), exit.Code)
	}
	return nil
}

// here is a path of ours in our root. Its ending is kept: a slash and a dot
// mean something.
func here(path string) (*archive.Root, string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, "", err
	}
	switch {
	case strings.HasSuffix(path, "/.") || path == ".":
		abs += "/."
	case strings.HasSuffix(path, "/"):
		abs += "/"
	}
	root, err := archive.OpenRoot("/")
	return root, abs, err
}
