package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hvctl/hvctl/container"
)

func cmdList(a *app) (func([]string) (int, error), flagSet) {
	format, quiet := "table", false
	var s flagSet
	s.text(&format, "format", "f", "table or json")
	s.onOff(&quiet, "quiet", "q", "IDs only")
	return func([]string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		list, err := r.List()
		if err != nil {
			return 1, err
		}
		switch {
		case quiet:
			for _, st := range list {
				fmt.Fprintln(a.out, st.ID)
			}
			return 0, nil
		case format == "json":
			if list == nil {
				list = []*container.State{}
			}
			return 0, a.printJSON(list, false)
		case format != "table":
			return 1, fmt.Errorf("--format: %q is neither table nor json", format)
		}
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, st := range list {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", st.ID, st.PID, st.Status, st.Bundle, st.Created.Format(time.RFC3339Nano), st.Owner)
		}
		return 0, w.Flush()
	}, s
}

func cmdPS(a *app) (func([]string) (int, error), flagSet) {
	format := "table"
	var s flagSet
	s.text(&format, "format", "f", "table or json")
	return func(args []string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		pids, err := r.Procs(args[0])
		if err != nil {
			return 1, err
		}
		switch format {
		case "json":
			if pids == nil {
				pids = []int{}
			}
			return 0, a.printJSON(pids, false)
		case "table":
			return 0, a.psTable(pids, args[1:])
		}
		return 1, fmt.Errorf("--format: %q is neither table nor json", format)
	}, s
}

// psTable is what ps(1) says, without the lines of others.
func (a *app) psTable(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	sc := bufio.NewScanner(bytes.NewReader(out))
	if !sc.Scan() {
		return errors.New("ps said nothing")
	}
	column := slices.Index(strings.Fields(sc.Text()), "PID")
	if column < 0 {
		return errors.New("ps printed no column PID; choose options that do")
	}
	fmt.Fprintln(a.out, sc.Text())
	for sc.Scan() {
		if f := strings.Fields(sc.Text()); len(f) > column {
			if pid, err := strconv.Atoi(f[column]); err == nil && slices.Contains(pids, pid) {
				fmt.Fprintln(a.out, sc.Text())
			}
		}
	}
	return sc.Err()
}
